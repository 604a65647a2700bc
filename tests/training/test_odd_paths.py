"""Odd names of folders: a run trains, saves, goes on and is sampled in them, or is refused before it trains."""

import shutil
import sys

import pytest

from lavie.cli import main as cli
from lavie.config.load import dump_yaml, load_config
from lavie.errors import ConfigError
from lavie.run_folder import checkpoints, step_of
from lavie.testing import run_distributed
from lavie.training.output_dir import claim
from tests.training.launched import end_ranks, start_ranks
from tests.training.runs import deepspeed_json, make_config, records, train, weight_hashes

NAMES = (
    "[x] blanks ünicode 火 🎬 run[1] a?b *.mp4 {0} a=b c: d #e",
    "-leading 'quoted' \"twice\" $HOME `x` \\n %s two\nlines\tand a trailing blank ",
    "a" * 255,
)
"""Names that a folder can have under Linux, with what patterns, shells, YAML and formats take for their own."""


def as_it_is(rank: int) -> None:
    """Change nothing in a rank."""


@pytest.fixture(scope="module")
def plain(rendered, tmp_path_factory):
    """A run in folders of plain names."""
    root = tmp_path_factory.mktemp("plain")
    config = make_config(rendered, root / "run", max_train_steps=3)
    run_distributed(train, 1, config, deepspeed_json(root, 2))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=("patterns", "shell", "long"))
def test_a_run_lives_in_a_folder_of_any_name(plain, rendered, tmp_path, monkeypatch, name):
    """The run's folder, the dataset and the config's folder have the name; the weights are those of plain names."""
    settings = deepspeed_json(tmp_path, 2)
    odd = tmp_path / "odd" / name
    shutil.copytree(rendered / "train", odd / "train")
    config = make_config(odd, odd / "run", max_train_steps=3, checkpointing_steps=2)
    path = odd / "config.yaml"
    path.write_text(dump_yaml(config))
    output = odd / "other run" / name
    words = [str(path), "--deepspeed", str(settings), f"output_dir={output}", "resume_from_checkpoint=auto"]
    for steps in (2, 3):
        log = tmp_path / f"{steps}.log"
        started = start_ranks([*words, f"max_train_steps={steps}"], 1, log, as_it_is)
        assert end_ranks(started) == [0], log.read_text()
    there = config.model_copy(update={"output_dir": str(output)})
    assert [step_of(folder) for folder in checkpoints(output)] == [2, 3]
    assert weight_hashes(there, 3) == weight_hashes(plain, 3)
    assert [record["loss"] for record in records(there)] == [record["loss"] for record in records(plain)]

    for command in (
        ["sample", "--checkpoint", str(output), "--prompt", "a red circle", "--out", str(odd / "samples")],
        ["checkpoint", "verify", str(output)],
        ["plot", str(output), "--out", str(odd / "losses.png")],
    ):
        monkeypatch.setattr(sys, "argv", ["lavie", *command])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, command
    assert list((odd / "samples").glob("*.mp4")) and (odd / "losses.png").is_file()


@pytest.mark.parametrize("name", ("", " ", "a" * 256, "s3://bucket/x", "nul\0byte", "\udcff"))
def test_a_name_that_no_run_can_have_is_refused_before_training(rendered, tmp_path, name):
    (tmp_path / "config.yaml").write_text(dump_yaml(make_config(rendered, tmp_path / "run")))
    output = name if not name.strip() or "://" in name else f"{tmp_path}/{name}"
    with pytest.raises(ConfigError, match="output_dir"):
        claim(load_config(tmp_path / "config.yaml", [f"output_dir={output}"]).output_dir)
