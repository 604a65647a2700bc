"""The command `lavie data index`, alone, in processes and under mpirun."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from lavie.cli.main import app
from lavie.errors import ConfigError, DataError
from tests.data.prepare.foreign import foreign_folder, keys


@pytest.fixture
def folder(tmp_path) -> Path:
    return foreign_folder(tmp_path / "set")


def test_the_command_names_a_damaged_shard(folder):
    tar = folder / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    result = typer.testing.CliRunner().invoke(app, ["data", "index", str(folder), "--workers", "1"])
    assert isinstance(result.exception, DataError)
    assert "00000.tar" in str(result.exception)
    assert "1 of 2: " in result.output
    assert "shards damaged" in result.output


@pytest.mark.slow
def test_the_command_in_processes(folder):
    result = typer.testing.CliRunner().invoke(app, ["data", "index", str(folder), "--workers", "2"])
    assert result.exception is None
    assert "rejected: unknown extension" in result.output
    assert keys(folder) == ["a", "v1.0_clip", "c"]


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("mpirun") and importlib.util.find_spec("mpi4py")), reason="needs mpirun and mpi4py"
)
def test_ranks_share_the_shards(folder):
    command = ["mpirun", "-np", "2", "--allow-run-as-root", "--oversubscribe", sys.executable, "-m", "lavie.cli"]
    result = subprocess.run([*command, "data", "index", str(folder), "--workers", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1 of 1: ") == 2
    assert result.stdout.count("shards indexed") == 1
    assert "rejected: no caption" in result.stdout
    assert keys(folder) == ["a", "v1.0_clip", "c"]


@pytest.mark.parametrize("world_size", ("0", "abc", "", "-1"))
@pytest.mark.parametrize("command", (["index", "x"], ["cache", "configs/smoke/base.yaml", "x"]))
def test_a_number_of_ranks_that_is_none_is_refused(monkeypatch, command, world_size):
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    result = typer.testing.CliRunner().invoke(app, ["data", *command])
    assert isinstance(result.exception, ConfigError)
    assert f"WORLD_SIZE is {world_size!r}" in str(result.exception)


def test_ranks_of_torchrun_are_told_that_they_share_nothing(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = typer.testing.CliRunner().invoke(app, ["data", "index", str(folder)])
    assert "started 2 processes, which do not share the work" in str(result.exception)
    assert not list(folder.glob("*.index.jsonl"))
