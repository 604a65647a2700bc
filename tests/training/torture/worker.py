"""A process that saves and looks when it is told to, forked from the warm one, and that may be killed at any moment."""

import logging
import multiprocessing
import os
import resource
import signal
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lavie.testing import free_port, start_rank_server
from tests.training.torture.subjects import SUBJECTS

PATIENCE = 120.0
"""Seconds in which a worker must answer."""


class Died(Exception):
    """The worker was killed before it answered."""


class Failed(NamedTuple):
    """The answer of a worker in which something went wrong that no subject expects."""

    text: str


class Worker:
    """A process with a subject of SUBJECTS in it."""

    def __init__(self, subject: str, run: Path) -> None:
        """Start a process, and wait until it can save into the folder `run`."""
        start_rank_server()
        context = multiprocessing.get_context("forkserver")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, subject, run, free_port()), daemon=True)
        self._process.start()
        other.close()
        self._answer()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return self._process.is_alive()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the subject returns. Raises Died if the process does."""
        self.begin(method, *arguments)
        return self._answer()

    def begin(self, method: str, *arguments: Any) -> None:
        """Call a method of the subject, without waiting for its end."""
        self._pipe.send((method, arguments))

    def heard(self, seconds: float) -> Any:
        """Return what the process says within so many seconds; None if it says nothing."""
        return self._pipe.recv() if self._pipe.poll(seconds) else None

    def _answer(self) -> Any:
        assert self._pipe.poll(PATIENCE), f"no answer within {PATIENCE:g} s"
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise Died from None
        assert not isinstance(answer, Failed), answer.text
        return answer

    def end(self) -> None:
        """End the process, also one that is stopped."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def _serve(pipe: Any, name: str, run: Path, port: int) -> None:
    """Answer what is asked through a pipe, until it is closed."""
    os.setsid()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)  # what libraries print about each fault
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    subject = SUBJECTS[name](run)
    pipe.send(None)
    with suppress(EOFError):
        while True:
            method, arguments = pipe.recv()
            if method == "saves":
                _saves(pipe, subject, *arguments)
                continue
            try:
                pipe.send(
                    _limited(subject, *arguments) if method == "limited" else getattr(subject, method)(*arguments)
                )
            except Exception:
                pipe.send(Failed(traceback.format_exc()))


def _limited(subject: Any, size: int, step: int, version: int) -> str | None:
    """Save while no file may be longer than `size`: the write that crosses it is short, and the next one fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        return subject.save(step, version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _saves(pipe: Any, subject: Any, first: int, last: int, pause: float) -> None:
    """Save the steps `first` to `last` as the versions of the same numbers, and tell when each begins and is saved."""
    for step in range(first, last + 1):
        pipe.send(("begins", step))
        failure = subject.save(step, step)
        pipe.send(("saved", step) if failure is None else (failure, step))
        time.sleep(pause)
