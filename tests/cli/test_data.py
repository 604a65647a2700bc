"""The commands `lavie data pack` and `lavie data demo`."""

import typer.testing

from lavie.cli.data import app
from lavie.data.shards.index import load_index
from lavie.errors import DataError
from tests.data.prepare.captioned import MP4, write


def run_cli(*args: object):
    return typer.testing.CliRunner().invoke(app, [str(a) for a in args])


def test_cli_packs_and_tells_what_it_left_out(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x", "b.mp4": MP4, "c[red].mp4": MP4})
    result = run_cli("pack", src, tmp_path / "out", "--fps", 8)
    assert result.exit_code == 0, result.output
    assert "rejected: no caption" in result.output
    assert "c[red].mp4: no caption" in result.output
    assert len(load_index((str(tmp_path / "out"),))) == 1


def test_cli_takes_one_rate_at_most(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x"})
    assert isinstance(run_cli("pack", src, tmp_path / "o", "--fps", 8, "--frame-stride", 2).exception, DataError)
    assert run_cli("pack", src, tmp_path / "out").exit_code == 0


def test_cli_draws_the_demo_set(tmp_path):
    result = run_cli("demo", tmp_path, "--clips", 10, "--images", 4, "--size", 32)
    assert result.exit_code == 0, result.output
    assert len(load_index((str(tmp_path / "train"),))) == 14
    assert isinstance(run_cli("demo", tmp_path / "x", "--size", 33).exception, DataError)
