"""`lavie lora train` and its companions, from rendered images to clips without and with adapters."""

import json
from pathlib import Path

import pytest

from lavie.config.load import dump_yaml, load_config
from lavie.data.prepare.synthetic import COLOURS
from lavie.data.shards.index import load_index
from lavie.errors import ConfigError, DataError
from lavie.testing import run_distributed
from tests.cli.commands import run_lavie
from tests.training.adapted import make_base, train_adapters
from tests.training.fixtures import rendered
from tests.training.runs import deepspeed_json, make_config

__all__ = ["rendered"]


@pytest.fixture(scope="module")
def base(rendered, tmp_path_factory) -> Path:
    """An exported folder of a small network of the rendered set."""
    folder = tmp_path_factory.mktemp("base")
    config = make_config(
        rendered,
        folder,
        data={"num_frames": 2, "height": 16, "width": 16},
        sampling={"num_inference_steps": 2},
        validation_prompts=("a red circle moving left",),
    )
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "export.json").write_text("{}")
    make_base(folder / "unet", config)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "orange"
    run_lavie("lora", "word", folder, "--size", 16)
    return folder


@pytest.fixture(scope="module")
def run(base, images, tmp_path_factory) -> Path:
    """A run of one step, prepared by the command and trained by this process's ranks."""
    out = tmp_path_factory.mktemp("lora") / "run"
    words = ["max_train_steps=1", "lora.rank=2", "data.num_workers=0", "validate_at_start=false", "report_to=[]"]
    prior = ["--prior", "a red circle", "--prior", "a blue square", "--prior-samples", 3]
    told = run_lavie("lora", "train", images, "--base", base, "--out", out, "--prepare", *prior, *words)
    assert f"lavie train {out / 'lora.yaml'} --deepspeed zero2.json" in told
    config = load_config(out / "lora.yaml", ["validation_prompts=[]"])
    run_distributed(train_adapters, 1, config, deepspeed_json(out, 2))
    return out


def test_the_run_has_the_network_of_its_base_and_both_datasets(run, base):
    config, of_base = load_config(run / "lora.yaml"), load_config(base / "config.yaml")
    assert config.model == of_base.model and config.sampling == of_base.sampling
    assert (config.trainable, config.lora.rank, config.init_weights) == ("lora", 2, str(base))
    assert config.data.images_alone and config.data.size == of_base.data.size
    subject, prior = (load_index([str(path)]) for path in config.data.train_paths)
    assert (len(subject.images), len(prior.images)) == (8, 3)
    assert {sample.caption for sample in prior} == {"a red circle", "a blue square"}
    assert config.validation_prompts[-2:] == ("a red circle", "a blue square")


def test_compare_draws_without_and_with_adapters(run, tmp_path):
    told = run_lavie("lora", "compare", run, "--out", tmp_path, "--prompt", "a orange circle moving up")
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert "motion with adapters by motion without" in told and (tmp_path / "compare.png").is_file()
    assert numbers["prompts"][0]["motion_without"] > 0


def test_score_judges_the_new_word_and_the_old_ones(run, tmp_path):
    run_lavie("lora", "score", run, "--out", tmp_path, "--clips", 1)
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert numbers["word"] == "orange" and "orange" not in COLOURS
    assert set(numbers["new"]) == set(numbers["old"])


def test_what_cannot_train_is_refused(base, images, tmp_path, run):
    few = tmp_path / "few"
    run_lavie("lora", "word", few, "--size", 16, "--images", 3)
    with pytest.raises(DataError, match="has 3 captioned images or clips that can train: wanted 8"):
        run_lavie("lora", "train", few, "--base", base, "--out", tmp_path / "a")
    with pytest.raises(ConfigError, match=r"lora\.rank is 99"):
        run_lavie("lora", "train", images, "--base", base, "--out", tmp_path / "b", "lora.rank=99")
    with pytest.raises(ConfigError, match="is a run of adapters itself"):
        run_lavie("lora", "train", images, "--base", run, "--out", tmp_path / "c")
    with pytest.raises(ConfigError, match="--word red: wanted a colour that the rendered set lacks"):
        run_lavie("lora", "word", tmp_path / "d", "--word", "red")
    with pytest.raises(ConfigError, match="holds no adapters"):
        run_lavie("lora", "compare", base, "--out", tmp_path / "e")
