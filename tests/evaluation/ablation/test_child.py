"""A training does not outlive the process that started it, whoever asks that one to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavie.evaluation.ablation.child import run_child

PARENT = """
import sys
from pathlib import Path
from lavie.evaluation.ablation.child import run_child

code = run_child([sys.executable, "-u", "-c", sys.argv[2]], Path(sys.argv[1]))
print("ended with", code)
"""
WAITS = "import os, time; print(os.getpid()); time.sleep(60)"
SAVES = """
import os, signal, time
def save(*_):
    time.sleep(0.3)
    print("saved")
    raise SystemExit(85)
signal.signal(signal.SIGINT, save)
print(os.getpid())
time.sleep(60)
"""


def start(log: Path, text: str, **options) -> tuple[subprocess.Popen, int]:
    """Start a parent and its child; return the parent, and the child's process id once it runs."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, log, text], stdout=subprocess.PIPE, text=True, **options)
    while not log.exists() or not log.read_text().endswith("\n"):
        assert parent.poll() is None
        time.sleep(0.01)
    return parent, int(log.read_text())


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_a_command_prints_and_its_exit_code(tmp_path):
    for number in (3, 4):
        code = run_child(
            [sys.executable, "-c", f"print('this is {number}'); raise SystemExit({number})"], tmp_path / "x"
        )
        assert code == number
    assert (tmp_path / "x").read_text() == "this is 3\nthis is 4\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP))
def test_a_parent_that_is_asked_to_end_takes_its_child_along(tmp_path, number):
    def listens():
        """Take SIGHUP as usual, though these tests may run under nohup."""
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    parent, child = start(tmp_path / "log", WAITS, preexec_fn=listens)
    parent.send_signal(number)
    assert parent.communicate(timeout=30)[0] == "" and parent.returncode == -number
    assert not lives(child)


def test_an_interrupt_of_the_parent_alone_lets_the_child_save(tmp_path):
    parent, child = start(tmp_path / "log", SAVES, stderr=subprocess.PIPE)
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert (tmp_path / "log").read_text().endswith("saved\n") and not lives(child)


def test_what_is_ignored_stays_ignored(tmp_path):
    def nohup():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    parent, child = start(tmp_path / "log", "import os, time; print(os.getpid()); time.sleep(1)", preexec_fn=nohup)
    parent.send_signal(signal.SIGHUP)
    assert parent.communicate(timeout=30)[0] == "ended with 0\n"
    assert not lives(child)
