"""The decoding of untrusted media in a child process, so that a crash, a hang or a bomb costs one sample.

One child serves all calls of a process, one after the other, and is started anew when it dies. While it decodes:

1. it can open no file and no socket (RLIMIT_NOFILE), and write to no file (RLIMIT_FSIZE);
2. its memory (RLIMIT_AS) and its processor time (RLIMIT_CPU) are limited;
3. the parent stops it after PATIENCE times the processor time.

Requests and replies are JSON, bytes, and arrays without Python objects: nothing that the child sends can run code in
the parent. A file that is too large for a request is passed as an open descriptor, the one file that the child can then
read, and the answer comes in parts (`Sandbox.stream`).
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, BinaryIO

from ...errors import DataError
from ..media import decode
from . import sandbox_child
from .sandbox_messages import PART, receive, send, unpacked

SECONDS = 300.0
"""Default limit of one call in seconds of processor time; a 1080p video of `streams.MAX_FRAMES` takes about 100."""
PATIENCE = 4
"""Limit of one call in wall-clock time, as a multiple of its processor time: machines are shared."""
CHILD = sandbox_child.__name__
"""The module that the child runs."""
START_SECONDS = 300.0
"""Limit for the start of a child. It imports its libraries in half a second, from a busy network disk in a minute."""
MEMORY = 4 << 30
"""Default limit of the address space, 4 GiB: twice a member of `scan.MAX_MEMBER`, and 8K frames with references."""


def probe(data: bytes, *, seconds: float = SECONDS, run: Callable | None = None) -> decode.MediaInfo:
    """Find out what media bytes hold, as `decode.probe` does, but in the child.

    Args:
        data: the untrusted bytes.
        seconds: limit of processor time.
        run: `call` of a Sandbox of the caller's own; default: `run_sandboxed`.

    Raises:
        DataError: the media is damaged, or the child died or reached a limit.
    """
    facts = (run or run_sandboxed)(probe_as_mapping, data, seconds=seconds)
    return decode.MediaInfo(**facts | {"notes": tuple(facts["notes"])})


def probe_as_mapping(data: bytes) -> dict[str, Any]:
    """Return the result of `decode.probe` as a mapping, which travels as JSON; runs in the child."""
    return asdict(decode.probe(data))


def run_sandboxed(function: Callable, data: bytes, *args: Any, seconds: float = SECONDS) -> Any:
    """Return `function(data, *args)`, run in the child that belongs to this process.

    Args:
        function: a function at the top of an importable module. It returns bytes, an array, or what JSON can hold.
        data: the untrusted bytes.
        args: what JSON can hold.
        seconds: limit of processor time; the wall clock allows PATIENCE times as much.

    Raises:
        DataError: the function raised an error, whose message it has; or the child crashed, reached a limit, or did
            not start.
    """
    with _lock:
        sandbox = _sandboxes.get(os.getpid())
        if sandbox is None:
            _sandboxes.clear()  # after a fork, the parent's sandbox is of no use here
            sandbox = _sandboxes[os.getpid()] = Sandbox()
    return sandbox.call(function, data, *args, seconds=seconds)


class Sandbox:
    """A child process with limits, of which `run_sandboxed` keeps one. Calls of several threads wait for each other."""

    def __init__(self, *, memory: int = MEMORY, prepare: Callable[[], Any] | None = None) -> None:
        """The child is started by the first call.

        Args:
            memory: limit of its address space in bytes, -1 for none.
            prepare: a function at the top of an importable module, which the child runs once while it can still open
                files.
        """
        self._memory = memory
        self._prepare = f"{prepare.__module__}:{prepare.__qualname__}" if prepare else ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self.starts = 0
        """Number of children started so far."""

    def call(self, function: Callable, data: bytes, *args: Any, seconds: float = SECONDS) -> Any:
        """Return `function(data, *args)`, run in this sandbox's child, which is started if none lives.

        The arguments are those of `run_sandboxed`. After a crash or a limit the child has ended, and the next call
        starts another.

        Raises:
            DataError: the function raised an error, whose message it has; or the child crashed, reached a limit, or
                did not start.
        """
        with self._lock, self._mourned(seconds):
            connection = self._started()
            deadline = time.monotonic() + seconds * PATIENCE
            send(connection, b"J", _request(function, args, seconds, stream=False), deadline)
            send(connection, b"B", data, deadline)
            kind, reply = receive(connection, deadline)
        return unpacked(kind, reply)

    def stream(
        self, function: Callable[..., Iterator], file: BinaryIO, *args: Any, seconds: float = SECONDS
    ) -> Iterator[Any]:
        """Yield what `function(file, *args)` yields, run in this sandbox's child, which is started if none lives.

        The child gets the descriptor of the open file and can read and seek in it, from its start on; it opens
        nothing else. So a film of any size passes through little memory. Until the last part is taken, or the iterator
        is closed, which ends the child, no other call of this sandbox can begin.

        Args:
            function: a generator function at the top of an importable module. Each part is bytes, an array, or what
                JSON can hold.
            file: the untrusted file, open for reading. Its position is shared with the child.
            args: what JSON can hold.
            seconds: limit of processor time from one part to the next; the wall clock allows PATIENCE times as much.

        Raises:
            DataError: as `call` does, after the parts that came before.
        """
        with self._lock, self._mourned(seconds):
            connection = self._started()
            deadline = time.monotonic() + seconds * PATIENCE
            send(connection, b"J", _request(function, args, seconds, stream=True), deadline)
            socket.send_fds(connection, [b"F"], [file.fileno()])
            kind, reply = receive(connection, deadline)
            while kind in PART:
                yield unpacked(kind.upper(), reply)
                kind, reply = receive(connection, time.monotonic() + seconds * PATIENCE)
        unpacked(kind, reply)  # an error is raised

    @contextmanager
    def _mourned(self, seconds: float) -> Iterator[None]:
        """Turn the end of the child within the block into a DataError; end it where the block ends early."""
        try:
            yield
        except TimeoutError:
            self._end()
            raise DataError(f"decoding took more than {seconds * PATIENCE:g} s and was stopped") from None
        except (OSError, EOFError):
            raise DataError(self._cause(seconds)) from None
        except BaseException:
            self._end()  # a late reply would answer the next call
            raise

    def close(self) -> None:
        """End the child; a later call starts another."""
        with self._lock:
            self._end()

    def _started(self) -> socket.socket:
        """Return the connection to the child, which is started if there is none or it has ended."""
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._end()

        # The child finds what this process finds, but not what lies in the current folder (-P).
        path = os.pathsep.join(sys.path)
        self._socket, child_socket = socket.socketpair()
        with child_socket:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", CHILD, str(child_socket.fileno()), str(self._memory), self._prepare],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_socket.fileno()],
                env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            )
        self.starts += 1

        # Its first message says that it has imported all that it needs.
        try:
            receive(self._socket, time.monotonic() + START_SECONDS)
        except (OSError, EOFError, TimeoutError):
            self._end()
            raise DataError(f"the process that decodes media does not start: {sys.executable} -m {CHILD}") from None
        return self._socket

    def _cause(self, seconds: float) -> str:
        """Return how the child ended, for the message of the error."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = 0
        self._end()
        if code == -signal.SIGXCPU:
            return f"decoding took more than {seconds:g} s of processor time and was stopped"
        if code < 0:
            return f"the decoder crashed with {signal.Signals(-code).name}"
        return f"the decoder ended with exit code {code}"

    def _end(self) -> None:
        """Kill the child, if there is one; the caller holds the lock."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None


_sandboxes: dict[int, Sandbox] = {}
"""The sandbox of this process, by its process id: after a fork the two processes must not share a socket."""
_lock = threading.Lock()


@atexit.register
def _close() -> None:
    """End this process's child when the process ends."""
    sandbox = _sandboxes.pop(os.getpid(), None)
    if sandbox is not None:
        sandbox.close()


def _request(function: Callable, args: Any, seconds: float, *, stream: bool) -> bytes:
    """Return the head of a request, as the child reads it."""
    name = {"module": function.__module__, "name": function.__qualname__}
    return json.dumps(name | {"args": args, "seconds": seconds, "stream": stream}).encode()
