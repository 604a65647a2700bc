"""The child of the sandbox, and the messages that it and its parent exchange."""

import importlib
import io
import json
import os
import pkgutil
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError

SOCKET = 3
"""The descriptor of the child's socket, the first after the standard streams."""
MAX_REPLY = 1 << 30
"""Most bytes of a reply, 1 GiB; a longer one counts as a crash."""

_HEAD = struct.Struct("<cQ")
"""The head of every message: a letter for its kind, and the number of bytes that follow.

J: JSON, A: an array as .npy, B: bytes, E: the message of a DataError, X: the message of another error. Small letters
are parts of a stream, after which more comes.
"""
PART = (b"j", b"a", b"b")
"""The kinds of the parts of a stream."""


def send(connection: socket.socket, kind: bytes, data: bytes, deadline: float | None = None) -> None:
    """Send one message; raise TimeoutError after `deadline`, a reading of the monotonic clock."""
    for part in (_HEAD.pack(kind, len(data)), data):
        rest = memoryview(part)
        while rest:
            connection.settimeout(_seconds_until(deadline))
            rest = rest[connection.send(rest) :]


def receive(connection: socket.socket, deadline: float | None = None) -> tuple[bytes, bytearray]:
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
    os.dup2(number, SOCKET)
    os.closerange(SOCKET + 1, 256)
    connection = socket.socket(fileno=SOCKET)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    send(connection, b"J", b"")

    while True:
        file: BinaryIO | None = None
        try:
            request = json.loads(receive(connection)[1])
            if request["stream"]:
                file = _passed_file(connection)
            data: Any = file or bytes(receive(connection)[1])
        except EOFError:
            return
        except MemoryError:
            os._exit(1)

        try:
            # The function's module may have to be imported; after that no file can be opened.
            _limit_time(request["seconds"])
            _limit_files(None)
            function = getattr(importlib.import_module(request["module"]), request["name"])
            _limit_files(SOCKET + 2 if file else SOCKET + 1)
            result = function(data, *request["args"])
            if file:
                _send_parts(connection, result, request["seconds"])
                result = None
            kind, reply = _packed(result)
        except DataError as error:
            kind, reply = b"E", str(error).encode(errors="replace")
        except MemoryError:
            kind, reply = b"X", f"decoding takes more than {memory >> 20} MiB".encode()
        except Exception as error:  # whatever a library raises on damaged input is the input's fault
            kind, reply = b"X", f"the decoder failed: {type(error).__name__}: {error}".encode(errors="replace")
        del data
        if file:
            file.close()
        send(connection, kind, reply)


def _passed_file(connection: socket.socket) -> BinaryIO:
    """Return the file whose descriptor the parent passes, at its start; it takes the number after the socket's."""
    _limit_files(SOCKET + 2)
    _, numbers, _, _ = socket.recv_fds(connection, 1, 1)
    if not numbers:
        raise EOFError
    file = os.fdopen(numbers[0], "rb")
    file.seek(0)
    return file


def _send_parts(connection: socket.socket, parts: Iterator, seconds: float) -> None:
    """Send the parts of a stream one by one; each has its own limit of time."""
    for part in parts:
        kind, reply = _packed(part)
        send(connection, kind.lower(), reply)
        _limit_time(seconds)


def _limit_files(count: int | None) -> None:
    """Let the process hold as many descriptors at a time, None for as many as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if count is None else count, most))


def _limit_time(seconds: float) -> None:
    """Give the process so many seconds of processor time from now on.

    It is counted over the life of a process, so that the limit starts from what is used.
    """
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, most))


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
