"""The command `lavie data index`, alone, in processes and under mpirun."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from lavie.cli.main import app
from lavie.errors import DataError
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
