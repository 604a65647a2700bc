"""A training as a process of its own, which does not outlive what asks this process to end."""

import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a process to end: ^C, a scheduler or `kill`, and a terminal that closes."""


def run_child(command: Sequence[str], log: Path) -> int:
    """Run a command to its end, and return its exit code.

    A signal that asks this process to end is passed on, and ends this process once the command has ended: a training
    saves its last step on ^C. Signals that this process ignores, as under nohup, stay ignored.

    Args:
        command: the program and its arguments.
        log: what it prints is written to the end of this file.

    Raises:
        KeyboardInterrupt: ^C.
    """
    got: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: Any) -> None:
        """Note a signal, and send it to the command if that runs."""
        got.append(number)
        if process is not None:
            process.send_signal(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may say how signals are taken
        heard = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        with log.open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            for number in list(got):  # what came before there was a process to send it to
                process.send_signal(number)
            code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in got:
        raise KeyboardInterrupt
    if got:
        signal.raise_signal(got[0])
    return code
