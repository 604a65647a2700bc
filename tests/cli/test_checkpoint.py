"""`lavie checkpoint verify` and `list`: what is whole, what is damaged, and what a killed process has left."""

import json

import pytest
from typer.testing import CliRunner

from lavie.cli import main as cli
from lavie.manifest import write_manifest
from lavie.tensor_file import write_text

ABOUT = {"world_size": 8, "zero_stage": 3, "dtype": "bfloat16"}


def make(folder, step):
    """Make a checkpoint of two small files."""
    folder.mkdir(parents=True)
    files = {name: write_text(folder / name, f"{name} of {step}\n" * 50) for name in ("config.yaml", "weights")}
    write_manifest(folder, ABOUT | {"step": step}, files)


@pytest.fixture
def run(tmp_path):
    """A run with whole checkpoints of the steps 2 and 10, and a folder that is nobody's."""
    for step in (10, 2):
        make(tmp_path / f"checkpoint-{step}", step)
    (tmp_path / "checkpoint-notes").mkdir()
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def test_whole_checkpoints_are_told_oldest_first(call, run):
    code, out = call(cli.main, "checkpoint", "verify", str(run))
    assert out.splitlines() == [f"{run}/checkpoint-2: whole", f"{run}/checkpoint-10: whole"]
    assert code.endswith("bytes read: 3,100 of 3,100\n")  # progress goes to the other stream


def test_every_damage_of_a_checkpoint_is_told_and_the_exit_code_says_so(call, run):
    flip(run / "checkpoint-2/weights")
    (run / "checkpoint-2/config.yaml").write_text("short")
    (run / "checkpoint-10/checkpoint.json").unlink()
    _, out = call(cli.main, "checkpoint", "verify", str(run))
    first, second = out.splitlines()
    assert first.startswith(f"{run}/checkpoint-2: damaged: {run}/checkpoint-2/config.yaml: has 5 bytes, wanted")
    assert first.endswith(f"{run}/checkpoint-2/weights: its bytes have changed since it was written")
    assert second == f"{run}/checkpoint-10: damaged: {run}/checkpoint-10: checkpoint.json is missing"
    assert exit_code(run) == exit_code(run / "checkpoint-2") == 1


def exit_code(place):
    """Return the exit code of verify, whatever it says on the way."""
    return CliRunner().invoke(cli.app, ["checkpoint", "verify", str(place)]).exit_code


def test_hidden_folders_are_told_and_only_the_run_s_own_count(call, run):
    make(run / ".checkpoint-4.old", 4)
    make(run / ".checkpoint-6.partial", 6)
    flip(run / ".checkpoint-6.partial/weights")
    (run / ".checkpoint-8.partial/state").mkdir(parents=True)
    _, out = call(cli.main, "checkpoint", "verify", str(run))
    lines = out.splitlines()[2:]
    assert lines[0] == f"{run}/.checkpoint-4.old: whole, hidden: a killed process left it"
    assert lines[1].startswith(f"{run}/.checkpoint-6.partial: left behind, not whole: ")
    assert lines[2].startswith(f"{run}/.checkpoint-8.partial: left behind, not whole: ")
    assert exit_code(run) == 0


def test_the_layout_of_before_is_no_damage_that_passes(call, run):
    (run / "checkpoint-2/checkpoint.json").write_text(json.dumps({"step": 2, "world_size": 4}))
    code, out = call(cli.main, "checkpoint", "verify", str(run / "checkpoint-2"))
    assert (code, out) == (
        1,
        f"{run}/checkpoint-2: the layout of before, without hashes: lavie checkpoint convert\n",
    )


def test_a_table_says_what_each_is_without_reading_it(call, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    flip(run / "checkpoint-2/weights")  # what only a hash would tell
    (run / "checkpoint-10/weights").write_text("short")
    make(run / ".checkpoint-4.old", 4)
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3/checkpoint.json").write_text(json.dumps({"step": 3, "world_size": 4}))
    code, out = call(cli.main, "checkpoint", "list", str(run))
    rows = [line.split() for line in out.splitlines() if "checkpoint-" in line]
    assert code == 0
    assert [row[0] for row in rows] == ["checkpoint-2", "checkpoint-3", "checkpoint-10", ".checkpoint-4.old"]
    assert rows[0][3:] == ["0.0", "MB", "8", "3", "bfloat16", "whole"]
    assert rows[1][5:8] == ["4", "-", "-"]
    assert " ".join(rows[1][8:]) == "the layout of before, without hashes: lavie checkpoint convert"
    assert rows[2][8:12] == ["damaged:", f"{run}/checkpoint-10/weights:", "has", "5"]


def test_what_is_no_run_is_refused_in_one_line(call, run):
    for command in ("verify", "list", "convert"):
        message, _ = call(cli.main, "checkpoint", command, str(run / "nowhere"))
        assert message == (f"CheckpointError: {run}/nowhere: no checkpoint-<step> folder, nor one that holds them"), (
            command
        )
    assert call(cli.main, "checkpoint", "convert", str(run)) == (
        0,
        f"nothing to convert: no checkpoint in {run} has the layout of before\n",
    )
