"""A rank notices that the command which launched it has ended, and does not mind a shell that is gone."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.nodes import environment, wait_until

RANK = """
import sys
from lavie.cluster.front_end import launcher_gone, remember_launcher
remember_launcher()
print("gone" if launcher_gone() else "there", flush=True)
sys.stdin.read(1)
print("gone" if launcher_gone() else "there", flush=True)
"""
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
"""Starts a process and waits for it; words behind the program are only there to be read in the command line."""


@pytest.mark.parametrize(
    "launcher, ended, variables, noticed",
    (
        ("deepspeed.launcher.launch", "the front end", {}, True),
        ("deepspeed.launcher.launch", "the parent", {}, True),
        ("deepspeed.launcher.launch", "nobody", {}, False),
        ("bash", "the parent", {"TORCHELASTIC_RUN_ID": "x"}, True),
        ("bash", "the front end", {"TORCHELASTIC_RUN_ID": "x"}, False),
        ("bash", "the parent", {}, False),  # nohup, then a logout
    ),
)
def test_the_end_of_a_launcher_is_noticed(launcher, ended, variables, noticed):
    front_end = subprocess.Popen(
        [sys.executable, "-c", STARTS, STARTS, RANK, launcher],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        start_new_session=True,
    )
    try:
        assert front_end.stdin and front_end.stdout
        assert front_end.stdout.readline() == "there\n"
        parent = psutil.Process(front_end.pid).children()[0].pid
        victim = {"the front end": front_end.pid, "the parent": parent, "nobody": 0}[ended]
        if victim:
            dead = psutil.Process(victim)
            dead.kill()
            wait_until(lambda: not dead.is_running() or dead.status() == psutil.STATUS_ZOMBIE, "its end")
        front_end.stdin.write("x")
        front_end.stdin.flush()
        assert front_end.stdout.readline() == ("gone\n" if noticed else "there\n")
    finally:
        os.killpg(front_end.pid, signal.SIGKILL)
        front_end.wait()
