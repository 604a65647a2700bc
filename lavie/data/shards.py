"""Shards: tars that are written whole or not at all, and read one verified member at a time."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from webdataset import TarWriter

from ..errors import DataError
from .decode import MediaInfo
from .index import index_shard
from .index_file import Sample, write_index
from .remote import ATTEMPTS, read_range

SHARD_BYTES = 256 << 20
"""Default size at which a shard is closed: large enough for sequential disks, small enough to copy again."""
MAX_OPEN = 64
"""Shards that a process holds open."""


class ShardWriter:
    """Writes `00000.tar`, `00001.tar`, ... and their indices into a folder; the same input gives the same bytes.

    A shard appears under its name only when it is complete, so an interrupted run leaves no half shard.
    """

    def __init__(self, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._out, self._limit = out, shard_bytes
        self._known: dict[str, MediaInfo] = {}
        self._file: Any = None
        self._tar: Any = None
        self.shards: list[Path] = []
        """The finished ones."""
        out.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._file:
            self._tar.close()
            self._file.close()
            self._partial.unlink()

    def add(self, key: str, media: bytes, info: MediaInfo, caption: str, notes: dict[str, Any]) -> None:
        """Append one sample: `{key}.{info.format}`, `{key}.txt`, and `notes` as `{key}.json`."""
        if self._file and self._file.tell() + len(media) > self._limit:
            self._finish()
        if not self._file:
            self._file = open(self._partial, "wb")  # noqa: SIM115 (closed by _finish or __exit__)
            self._tar = TarWriter(self._file, encoder=False, mtime=0, user="lavie", group="lavie")
        members = {
            info.format: media,
            "txt": caption.encode(),
            "json": json.dumps(notes, ensure_ascii=False, sort_keys=True).encode(),
        }
        self._tar.write({"__key__": key, **members})
        self._known[key] = info

    @property
    def _path(self) -> Path:
        return self._out / f"{len(self.shards):05d}.tar"

    @property
    def _partial(self) -> Path:
        return self._path.with_suffix(".tar.partial")

    def _finish(self) -> None:
        if not self._file:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._path
        os.replace(self._partial, path)
        samples, rejected = index_shard(path, self._known)
        if rejected:
            raise AssertionError(f"wrote {path} and cannot read it back: {rejected[:3]}")
        write_index(path, samples)
        self.shards.append(path)
        self._known, self._file, self._tar = {}, None, None


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
