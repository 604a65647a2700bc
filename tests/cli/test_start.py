"""How commands start and end: nothing heavy is imported for a help text, and no way to stop one leaves a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lavie
from lavie.cli import main as cli
from tests.cli.commands import ROOT

HEAVY = ("torch", "transformers", "diffusers", "av", "matplotlib", "numpy", "deepspeed", "pyarrow", "yaml", "PIL")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", (["--help"], ["data", "--help"], ["sampl"], ["sample", "--hlp"], ["--version"]))
def test_help_and_typing_errors_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom lavie.cli.main import main\n"
        f"sys.argv = ['lavie', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(call):
    assert call(cli.main, "--version") == (0, f"lavie {lavie.__version__}\n")


@pytest.mark.parametrize("words", (["sampl"], ["data", "pak"], ["sample", "--promt", "x"], ["config", "lst"]))
def test_typing_errors_name_the_nearest_command(call, words):
    message, _ = call(cli.main, *words)
    assert "Did you mean" in message or "Possible options" in message


def test_a_pipe_that_closes_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lavie.cli", "config", "keys"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_exit_code_130(tmp_path):
    """^C while shapes are rendered."""
    command = [sys.executable, "-m", "lavie.cli", "data", "demo", str(tmp_path / "demo"), "--clips", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "demo").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_a_home_folder_behind_an_option_is_found():
    assert cli._with_home("--out=~/x") == f"--out={Path.home()}/x"
    assert cli._with_home("--prompt=~") == "--prompt=~"
    assert cli._with_home("~/x") == "~/x"
