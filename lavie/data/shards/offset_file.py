"""A file that is read by offset, as shards, tables and caches are."""

import os
from pathlib import Path


class OffsetFile:
    """An open file without a position of its own, so that threads and forked processes can share it.

    It is closed with the last reference to it.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file for reading. Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the number of the open file in this process."""
        return self._descriptor

    def size(self) -> int:
        """Return the file's present size in bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends before. Raises OSError."""
        data = os.pread(self._descriptor, size, offset)
        # Some network file systems return less than was asked for.
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
