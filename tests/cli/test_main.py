"""The command `lavie`: its help, and what follows a mistake: one message, exit code 1, no traceback."""

import os
import subprocess
import sys

import pytest

from lavie.cli import main as cli
from tests.cli.commands import ROOT, run


@pytest.mark.slow
def test_lavie_exits_with_1_and_no_traceback(tmp_path):
    done = run(
        "-m", "lavie.cli", "sample", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), "--prompt", "a"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("CheckpointError: ")
    assert str(tmp_path) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    (
        (["sample", "--checkpoint", "nowhere", "--out", "out", "--prompt", "a"], "CheckpointError: nowhere: "),
        (
            ["sample", "--checkpoint", "a", "--out", "b", "--prompt-file", "nowhere"],
            "ConfigError: --prompt-file nowhere",
        ),
        (["score", "--checkpoint", "nowhere", "--out", "out"], "CheckpointError: nowhere: "),
        (["plot", "nowhere"], "DataError: metrics nowhere/metrics.jsonl: "),
        (["report", "nowhere"], "ConfigError: nowhere is no run: it has neither metrics.jsonl nor config.yaml"),
        (["report", "nowhere", "--out", "a.pdf"], "ConfigError: --out a.pdf: wanted a .html"),
        (["report"], "ConfigError: RUN is missing"),
        (["data", "pack", "nowhere", "out"], "DataError: SRC nowhere: "),
        (
            ["data", "pack", "nowhere", "out", "--fps", "8", "--frame-stride", "2"],
            "DataError: --fps 8 and",
        ),
        (["data", "demo", "out", "--size", "33"], "DataError: --size 33: "),
        (["data", "pack", "", "out"], "ConfigError: an empty word after pack: "),
        (["data", "pack", "src", "out", "--tokenizer="], "ConfigError: an empty word in --tokenizer=: "),
        (["plot", "--out", "", "run"], "ConfigError: an empty word after --out: "),
        (["sample", "nowhere", "--out", "out", "--prompt", ""], "CheckpointError: nowhere: "),
    ),
)
def test_lavie_answers_a_mistake_in_one_line(call, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _ = call(cli.main, *arguments)
    assert code.startswith(message)
    assert len(code.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command(call):
    code, out = call(cli.main, "--help")
    assert code == 0
    for name in ("sample", "generate", "score", "plot", "report", "export", "import", "data"):
        assert name in out
    code, out = call(cli.main, "data", "--help")
    assert code == 0
    assert all(name in out for name in ("pack", "index", "check", "plan", "demo"))


def test_a_place_that_cannot_be_written_leaves_no_traceback(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _out = call(cli.main, "data", "demo", str(tmp_path / "file"))
    assert code.startswith(
        f"NotADirectoryError: [Errno 20] Not a directory: '{tmp_path}/file/train': a part of the path"
    )


def test_what_the_terminal_cannot_show_is_told_by_its_escapes(tmp_path):
    """A folder whose name is no UTF-8, on a terminal that takes UTF-8 alone."""
    out = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    command = [sys.executable, "-m", "lavie.cli", "eval", "ucf101", "prompts", "--samples", "1", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == os.fsencode(tmp_path) + b"/caf\\udce9.jsonl: 101 jobs\n"
