"""The decoding of untrusted media in a child process, so that a crash, a hang or a bomb costs one sample.

One child serves all calls of a process, one after the other, and is started anew when it dies. While it decodes:

1. it can open no file and no socket (RLIMIT_NOFILE), and write to no file (RLIMIT_FSIZE);
2. its memory (RLIMIT_AS) and its processor time (RLIMIT_CPU) are limited;
3. the parent stops it after PATIENCE times the processor time.

Requests and replies are JSON, bytes, and arrays without Python objects: nothing that the child sends can run code in
the parent.
"""

import atexit
import importlib
import io
import json
import os
import pkgutil
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from ...errors import DataError
from ..media import decode

SECONDS = 300.0
"""Default limit of one call in seconds of processor time; a 1080p video of `streams.MAX_FRAMES` takes about 100."""
PATIENCE = 4
"""Limit of one call in wall-clock time, as a multiple of its processor time: machines are shared."""
START_SECONDS = 300.0
"""Limit for the start of a child. It imports its libraries in half a second, from a busy network disk in a minute."""
MEMORY = 4 << 30
"""Default limit of the address space, 4 GiB: twice a member of `scan.MAX_MEMBER`, and 8K frames with references."""
MAX_REPLY = 1 << 30
"""Most bytes of a reply, 1 GiB; a longer one counts as a crash."""

_HEAD = struct.Struct("<cQ")
"""The head of every message: a letter for its kind, and the number of bytes that follow.

J: JSON, A: an array as .npy, B: bytes, E: the message of a DataError, X: the message of another error.
"""


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
        request = json.dumps(
            {"module": function.__module__, "name": function.__qualname__, "args": args, "seconds": seconds}
        )
        with self._lock:
            connection = self._started()
            deadline = time.monotonic() + seconds * PATIENCE
            try:
                _send(connection, b"J", request.encode(), deadline)
                _send(connection, b"B", data, deadline)
                kind, reply = _receive(connection, deadline)
            except TimeoutError:
                self._end()
                raise DataError(f"decoding took more than {seconds * PATIENCE:g} s and was stopped") from None
            except (OSError, EOFError):
                raise DataError(self._cause(seconds)) from None
            except BaseException:
                self._end()  # a late reply would answer the next call
                raise
        return _unpacked(kind, reply)

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
                [sys.executable, "-P", "-m", __name__, str(child_socket.fileno()), str(self._memory), self._prepare],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_socket.fileno()],
                env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            )
        self.starts += 1

        # Its first message says that it has imported all that it needs.
        try:
            _receive(self._socket, time.monotonic() + START_SECONDS)
        except (OSError, EOFError, TimeoutError):
            self._end()
            raise DataError(f"the process that decodes media does not start: {sys.executable} -m {__name__}") from None
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


def _send(connection: socket.socket, kind: bytes, data: bytes, deadline: float | None = None) -> None:
    """Send one message; raise TimeoutError after `deadline`, a reading of the monotonic clock."""
    for part in (_HEAD.pack(kind, len(data)), data):
        rest = memoryview(part)
        while rest:
            connection.settimeout(_seconds_until(deadline))
            rest = rest[connection.send(rest) :]


def _receive(connection: socket.socket, deadline: float | None = None) -> tuple[bytes, bytearray]:
    """Return the kind and the bytes of the next message; a parent, which gives a deadline, limits their number."""
    kind, size = _HEAD.unpack(_exactly(connection, _HEAD.size, deadline))
    if deadline is not None and size > MAX_REPLY:
        raise EOFError
    return kind, _exactly(connection, size, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    """Receive `size` bytes; raise EOFError if the other side closes before."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        connection.settimeout(_seconds_until(deadline))
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _seconds_until(deadline: float | None) -> float | None:
    """Return the seconds until `deadline`, None if there is no deadline; raise TimeoutError if it has passed."""
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _unpacked(kind: bytes, reply: bytearray) -> Any:
    """Return the result that a reply holds; an error, of either kind, is raised as a DataError."""
    if kind == b"B":
        return bytes(reply)
    if kind == b"A":
        return np.load(io.BytesIO(reply), allow_pickle=False)
    if kind == b"J":
        return json.loads(reply)
    raise DataError(reply.decode(errors="replace"))


def _packed(result: Any) -> tuple[bytes, bytes]:
    """Return the kind and the bytes of the reply that carries a result."""
    if isinstance(result, bytes):
        return b"B", result
    if isinstance(result, np.ndarray):
        file = io.BytesIO()
        np.save(file, result, allow_pickle=False)
        return b"A", file.getvalue()
    return b"J", json.dumps(result).encode()


def _serve(number: int, memory: int, prepare: str) -> None:
    """Run the child: answer calls until the parent closes its end or is gone.

    Args:
        number: file descriptor of the socket to the parent.
        memory: limit of the address space in bytes, -1 for none.
        prepare: `module:function` to run while files can still be opened, or an empty text.
    """
    _import_late_modules()
    if prepare:
        module, _, name = prepare.partition(":")
        getattr(importlib.import_module(module), name)()

    # The socket comes right after the standard streams, so that no descriptor is free below the limit.
    socket_number = 3
    os.dup2(number, socket_number)
    os.closerange(socket_number + 1, 256)
    connection = socket.socket(fileno=socket_number)
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most_seconds = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _send(connection, b"J", b"")

    while True:
        try:
            request = json.loads(_receive(connection)[1])
            data = bytes(_receive(connection)[1])
        except EOFError:
            return
        except MemoryError:
            os._exit(1)

        # Processor time is counted over the life of a process, so each call's limit starts from what is used.
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + request["seconds"]) + 1, most_seconds))
        try:
            # The function's module may have to be imported; after that no file can be opened.
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
            function = getattr(importlib.import_module(request["module"]), request["name"])
            resource.setrlimit(resource.RLIMIT_NOFILE, (socket_number + 1, most_files))
            kind, reply = _packed(function(data, *request["args"]))
        except DataError as error:
            kind, reply = b"E", str(error).encode(errors="replace")
        except MemoryError:
            kind, reply = b"X", f"decoding takes more than {memory >> 20} MiB".encode()
        except Exception as error:  # whatever a library raises on damaged input is the input's fault
            kind, reply = b"X", f"the decoder failed: {type(error).__name__}: {error}".encode(errors="replace")
        del data
        _send(connection, kind, reply)


def _import_late_modules() -> None:
    """Import what decoders import only when they need it, such as PyAV's subtitles: later no file can be opened."""
    import av
    from PIL import Image

    Image.init()
    late = [m.name for m in pkgutil.walk_packages(av.__path__, "av.") if "__main__" not in m.name]
    for name in (*late, "PIL.ImageColor", "PIL.ImagePalette", "encodings.latin_1", "encodings.ascii"):
        importlib.import_module(name)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
