"""The command `lavie data view`: what it shows, where marks go, and what it refuses."""

from pathlib import Path

import pytest

pytest.importorskip("starlette")
from lavie.config.load import dump_yaml
from lavie.errors import ConfigError, DataError
from lavie.pages.data import serve as module
from tests.cascades import stage_config
from tests.cli.commands import run_lavie
from tests.data.datasets import write_lone


@pytest.fixture
def asked(monkeypatch):
    """What the command has asked the server for, in place of serving."""
    calls = []
    monkeypatch.setattr(module, "serve", lambda index, port, tell, **options: calls.append((index, port, options)))
    return calls


def test_shards_alone_are_shown_and_marks_go_to_the_present_folder(asked, tmp_path):
    run_lavie("data", "view", write_lone(tmp_path / "shards"), "--port", 0)
    [(index, port, options)] = asked
    assert [sample.key for sample in index] == ["000000000-lone"] and port == 0
    assert options == {"exclude": Path("exclude.txt"), "scores": {}, "config": None, "step": None, "world_size": 1}


@pytest.mark.parametrize("by", ("config", "option"))
def test_a_run_says_what_is_shown_and_where_marks_go(asked, tmp_path, by):
    listed = tmp_path / "bad.txt"
    data = {"num_frames": 4, "num_images": 0, "height": 16, "width": 16, "fps": 8}
    data |= {"train": [str(write_lone(tmp_path / "shards"))], "exclude": str(listed) if by == "config" else []}
    (tmp_path / "run.yaml").write_text(dump_yaml(stage_config("base", data=data)))
    words = ["--exclude", listed] if by == "option" else []
    run_lavie(
        "data", "view", "--config", tmp_path / "run.yaml", "max_train_steps=7", "--step", 3, "--world-size", 2, *words
    )
    [(index, _, options)] = asked
    assert len(index) == 1 and options["exclude"] == listed
    assert (options["config"].max_train_steps, options["step"], options["world_size"]) == (7, 3, 2)


@pytest.mark.parametrize(
    "words, error, told",
    (
        ([], ConfigError, "SHARDS is missing"),
        (["shards", "max_train_steps=7"], ConfigError, "wanted --config"),
        (["shards", "--step", 3], ConfigError, "wanted --config"),
        (["nowhere"], DataError, "nowhere"),
        (["."], DataError, "no"),
    ),
)
def test_what_cannot_be_shown_is_one_line(asked, tmp_path, monkeypatch, words, error, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told) as raised:
        run_lavie("data", "view", *words)
    assert asked == [] and len(str(raised.value).splitlines()) == 1
