"""Untrusted media is decoded in a child process that can be killed: a crash, a hang or a bomb costs one sample.

One child serves all calls of a process, one after the other, and is started anew when it dies. While it decodes it can
open no file and no socket (RLIMIT_NOFILE), write to none (RLIMIT_FSIZE), and takes limited memory and time. Requests
and replies are JSON and arrays without objects: nothing that the child sends can run code here.
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
"""Of processor time for one call: a 1080p video of `decode.MAX_FRAMES` frames takes about 100."""
PATIENCE = 4
"""The wall clock allows this many times the processor time: machines are shared."""
START_SECONDS = 300.0
"""A child imports its libraries in half a second, from a busy network file system in a minute."""
MEMORY = 4 << 30
"""Bytes of address space: a member of `index.MAX_MEMBER` twice, and 8K frames with their references."""
MAX_REPLY = 1 << 30

_HEAD = struct.Struct("<cQ")
"""Of every message: what it is, and the bytes that follow. J: JSON, A: .npy, B: bytes, E: DataError, X: other error."""


def probe(data: bytes, *, seconds: float = SECONDS) -> decode.MediaInfo:
    """`decode.probe` in the child. Raises DataError as it does, and if the child dies or reaches a limit."""
    return decode.MediaInfo(**run_sandboxed(probe_as_mapping, data, seconds=seconds))


def probe_as_mapping(data: bytes) -> dict[str, Any]:
    """`decode.probe` as a mapping, which travels."""
    return asdict(decode.probe(data))


def run_sandboxed(function: Callable, data: bytes, *args: Any, seconds: float = SECONDS) -> Any:
    """`function(data, *args)`, run in this process's child.

    function: at the top of an importable module; args: what JSON can hold. It returns bytes, an array, or what JSON can
    hold. Raises DataError with the function's own message, or one that says how the child ended.
    """
    with _lock:
        child = _sandboxes.get(os.getpid())
        if child is None:
            _sandboxes.clear()  # a fork inherits its parent's
            child = _sandboxes[os.getpid()] = Sandbox()
    return child.call(function, data, *args, seconds=seconds)


class Sandbox:
    """A child process with limits; `run_sandboxed` keeps one. Calls from several threads wait for each other."""

    def __init__(self, *, memory: int = MEMORY, prepare: Callable[[], Any] | None = None) -> None:
        """memory: bytes of address space, -1 for no limit. prepare: run by the child while it can still open files."""
        self._memory = memory
        self._prepare = f"{prepare.__module__}:{prepare.__qualname__}" if prepare else ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self.starts = 0
        """Children started so far."""

    def call(self, function: Callable, data: bytes, *args: Any, seconds: float = SECONDS) -> Any:
        """See `run_sandboxed`."""
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
                self._end()  # its reply would answer the next call
                raise
        return _unpacked(kind, reply)

    def close(self) -> None:
        """End the child; a later call starts another."""
        with self._lock:
            self._end()

    def _started(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._end()
        self._socket, theirs = socket.socketpair()
        path = os.pathsep.join(sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(self._memory), self._prepare],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            )
        self.starts += 1
        try:
            _receive(self._socket, time.monotonic() + START_SECONDS)
        except (OSError, EOFError, TimeoutError):
            self._end()
            raise DataError(f"the process that decodes media does not start: {sys.executable} -m {__name__}") from None
        return self._socket

    def _cause(self, seconds: float) -> str:
        """How the child ended."""
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
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None


_sandboxes: dict[int, Sandbox] = {}
"""By process id: a fork must not share the socket."""
_lock = threading.Lock()


@atexit.register
def _close() -> None:
    child = _sandboxes.pop(os.getpid(), None)
    if child is not None:
        child.close()


def _send(connection: socket.socket, kind: bytes, data: bytes, deadline: float | None = None) -> None:
    for part in (_HEAD.pack(kind, len(data)), data):
        rest = memoryview(part)
        while rest:
            connection.settimeout(_left(deadline))
            rest = rest[connection.send(rest) :]


def _receive(connection: socket.socket, deadline: float | None = None) -> tuple[bytes, bytearray]:
    kind, size = _HEAD.unpack(_exactly(connection, _HEAD.size, deadline))
    if deadline is not None and size > MAX_REPLY:
        raise EOFError
    return kind, _exactly(connection, size, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        connection.settimeout(_left(deadline))
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _unpacked(kind: bytes, reply: bytearray) -> Any:
    if kind == b"B":
        return bytes(reply)
    if kind == b"A":
        return np.load(io.BytesIO(reply), allow_pickle=False)
    if kind == b"J":
        return json.loads(reply)
    raise DataError(reply.decode(errors="replace"))


def _packed(result: Any) -> tuple[bytes, bytes]:
    if isinstance(result, bytes):
        return b"B", result
    if isinstance(result, np.ndarray):
        file = io.BytesIO()
        np.save(file, result, allow_pickle=False)
        return b"A", file.getvalue()
    return b"J", json.dumps(result).encode()


def _serve(number: int, memory: int, prepare: str) -> None:
    """The child: answer until the parent closes its end or is gone."""
    _warm_up()
    if prepare:
        module, _, name = prepare.partition(":")
        getattr(importlib.import_module(module), name)()
    # The socket comes right after the standard streams, so that no descriptor is free below the limit.
    fixed = 3
    os.dup2(number, fixed)
    os.closerange(fixed + 1, 256)
    connection = socket.socket(fileno=fixed)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processor = resource.getrlimit(resource.RLIMIT_CPU)[1]
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
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + request["seconds"]) + 1, processor))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            function = getattr(importlib.import_module(request["module"]), request["name"])
            resource.setrlimit(resource.RLIMIT_NOFILE, (fixed + 1, most))
            kind, reply = _packed(function(data, *request["args"]))
        except DataError as error:
            kind, reply = b"E", str(error).encode(errors="replace")
        except MemoryError:
            kind, reply = b"X", f"decoding takes more than {memory >> 20} MiB".encode()
        except Exception as error:  # whatever a library raises on damaged input is the input's fault
            kind, reply = b"X", f"the decoder failed: {type(error).__name__}: {error}".encode(errors="replace")
        del data
        _send(connection, kind, reply)


def _warm_up() -> None:
    """Import what the decoders import late, as at the first subtitle stream: no file can be opened afterwards."""
    import av
    from PIL import Image

    Image.init()
    late = [m.name for m in pkgutil.walk_packages(av.__path__, "av.") if "__main__" not in m.name]
    for name in (*late, "PIL.ImageColor", "PIL.ImagePalette", "encodings.latin_1", "encodings.ascii"):
        importlib.import_module(name)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
