"""Shards: tars that are written whole or not at all, and read one verified member at a time."""

import hashlib
import os
from functools import lru_cache

from ...errors import DataError
from .index_file import Sample
from .remote import ATTEMPTS, read_range

MAX_OPEN = 64
"""Shards that a process holds open."""


def read_member(sample: Sample, verify: bool = True, timeout: float = 120.0) -> bytes:
    """The media bytes of a sample, with `verify` checked against the SHA-256 of the index.

    A shard behind a URL is tried several times, half of `timeout` seconds being waited for it in all. Raises DataError
    that names shard:offset:key if they cannot be read, are cut short, or differ from the packed ones.
    """
    place = f"{sample.shard}:{sample.offset}:{sample.key}"
    try:
        if "://" in sample.shard:  # no path has two slashes, so that this came from a URL of the configuration
            data = read_range(sample.shard, sample.offset, sample.size, timeout / 2 / ATTEMPTS)
        else:
            data = _opened(sample.shard).read(sample.offset, sample.size)
        if len(data) != sample.size:
            raise DataError(
                f"{place}: {len(data)} of {sample.size} bytes: the shard is cut short, copy or pack it again"
            )
        if verify and hashlib.sha256(data).hexdigest() != sample.sha256:
            raise DataError(f"{place}: the SHA-256 differs from the index: the shard is damaged, copy or pack it again")
    except OSError as error:
        _opened.cache_clear()
        raise DataError(f"{place}: cannot be read: {error}") from None
    except DataError:
        _opened.cache_clear()  # a shard that is replaced by a whole one is found by its path again
        raise
    return data


class _Opened:
    """A file that is read by offset, from any thread or forked process, and closed with its last reference."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        while len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
            data += more  # some network file systems return less than was asked for
        return data

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


_opened = lru_cache(maxsize=MAX_OPEN)(_Opened)
