"""The command `lavie data check`: its files, its exit code, and nothing that reaches the terminal."""

import json
import shutil

import numpy as np
import pytest
import typer
import typer.testing
from PIL import Image

from lavie.cli.data_check import check_command
from lavie.errors import DataError
from tests.data.check.planted import GOOD, make_shard


def run_cli(*args: object):
    app = typer.Typer()
    app.command()(check_command)
    return typer.testing.CliRunner().invoke(app, [str(a) for a in args])


def test_cli_writes_the_report_and_pictures(demo, tmp_path):
    result = run_cli(demo / "train", "--decode", 3, "--num-frames", 8, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "check.json").read_text())
    assert facts["usable"]
    assert facts["videos"] == 24
    assert facts["decoded"] == 3
    assert facts["findings"] == []
    for name in ("statistics.png", "sheet.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.min() < 60
        assert picture.max() > 200


@pytest.mark.slow
def test_cli_fails_where_samples_cannot_train(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    assert run_cli(tmp_path / "train", "--num-frames", 99, "--out", tmp_path / "out").exit_code == 1
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert facts["problems"]["too short"] == 24
    assert not facts["usable"]


def test_cli_names_what_is_no_shard(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        assert isinstance(run_cli(path, "--out", tmp_path / "out").exception, DataError)
    assert isinstance(run_cli(tmp_path, "--fps", 8, "--frame-stride", 2).exception, DataError)


def test_names_cannot_reach_the_terminal(tmp_path):
    members = {**GOOD, "evil\x1b[2Jname.pkl": b""}
    result = run_cli(make_shard(tmp_path / "0.tar", members), "--out", tmp_path / "out")
    assert "\x1b[2J" not in result.output
    assert "unsafe name" in result.output
