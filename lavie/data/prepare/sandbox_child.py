"""The child of the sandbox: it limits itself, and answers the calls of its parent."""

import importlib
import json
import os
import pkgutil
import resource
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from ...errors import DataError
from .sandbox_messages import packed, receive, send

SOCKET = 3
"""The descriptor of the child's socket, the first after the standard streams."""


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
            kind, reply = packed(result)
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
        kind, reply = packed(part)
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
