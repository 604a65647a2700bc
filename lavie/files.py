"""Files that appear whole or not at all."""

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
