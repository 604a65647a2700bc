"""The user's cache of tables and indices, and the lock by which the processes of a node share it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def user_cache() -> Path:
    """Return the folder of this project in the user's cache: in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lavie"


@contextmanager
def one_process_per_node(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder: the processes of a node that ask for it go through the block one after another.

    Where the file system has no locks, they go through it at the same time. Raises OSError if the folder is missing.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
