"""Files that appear whole or not at all, and with the mode that the user's umask gives."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; on success that file is fsynced and renamed over `path`.

    The name is this process's own (host and process id), so that several may write at a time and the last one wins.
    When the block raises, the file is removed and `path` stays as it was.

    Raises:
        OSError: nothing was written, or `path` cannot be replaced.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def apply_umask(path: str | Path) -> None:
    """Give a file the mode of one that `open` makes: some libraries write files that nobody else may read."""
    umask = os.umask(0o077)
    os.umask(umask)
    Path(path).chmod(0o666 & ~umask)
