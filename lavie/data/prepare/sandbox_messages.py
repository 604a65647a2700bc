"""The messages that the sandbox's child and its parent exchange over a socket."""

import io
import json
import socket
import struct
import time
from typing import Any

import numpy as np

from ...errors import DataError

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


def packed(result: Any) -> tuple[bytes, bytes]:
    """Return the kind and the bytes of the reply that carries a result."""
    if isinstance(result, bytes):
        return b"B", result
    if isinstance(result, np.ndarray):
        file = io.BytesIO()
        np.save(file, result, allow_pickle=False)
        return b"A", file.getvalue()
    return b"J", json.dumps(result).encode()


def unpacked(kind: bytes, reply: bytearray) -> Any:
    """Return the result that a reply holds; an error, of either kind, is raised as a DataError."""
    if kind == b"B":
        return bytes(reply)
    if kind == b"A":
        return np.load(io.BytesIO(reply), allow_pickle=False)
    if kind == b"J":
        return json.loads(reply)
    raise DataError(reply.decode(errors="replace"))
