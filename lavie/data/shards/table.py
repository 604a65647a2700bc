"""A dataset compiled into one file: 25 million samples cost a process a few MiB, not tens of GiB.

Rows of fixed size, videos first, then images, so that both are slices. Rows and their texts (key and caption) are read
one at a time with `pread`; the numbers that samples are chosen by lie in columns too, which are memory-mapped and so
shared by all processes of a node. Layout, little-endian: rows, columns, texts, description (JSON), trailer.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError

ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("caption_offset", "<u8"),
        ("text", "<u8"),  # where key and caption lie among the texts
        ("fps", "<f8"),  # NaN for images
        ("duration", "<f8"),
        ("size", "<u4"),
        ("caption_size", "<u4"),
        ("key_bytes", "<u4"),
        ("caption_bytes", "<u4"),
        ("shard", "<u4"),
        ("frames", "<u4"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("sha256", "V32"),
        ("vfr", "?"),
        ("codec", "u1"),
        ("extension", "u1"),
    ]
)
"""103 bytes a sample. shard, codec and extension count in the lists of the description."""
COLUMNS = ("size", "frames", "fps", "vfr", "width", "height", "duration", "shard", "codec")
"""What `Table.column` gives."""
VERSION = 1
TRAILER = struct.Struct("<Q8s")
MAGIC = b"LaVieTab"
BLOCK = 64
"""Bytes of a selection's bits per entry of its running count."""


class TableWriter:
    """Writes a table front to back into a seekable file; until `close` has run it is none."""

    def __init__(self, file: BinaryIO, videos: int, images: int) -> None:
        self._file, self._counts = file, {"video": videos, "image": images}
        self._next = {"video": 0, "image": videos}
        self._start, self._texts_at = _layout(videos + images)
        self._text_bytes = 0
        self.codecs: list[str] = []
        self.extensions: list[str] = []

    def add(self, kind: str, rows: np.ndarray, texts: bytes) -> None:
        """Append rows (ROW) of one kind; their `text` counts from the start of `texts`."""
        rows["text"] += self._text_bytes
        first = self._next[kind]
        self._next[kind] += len(rows)
        self._write(first * ROW.itemsize, rows.tobytes())
        for name, start in self._start.items():
            self._write(start + first * ROW[name].itemsize, np.ascontiguousarray(rows[name]).tobytes())
        self._write(self._texts_at + self._text_bytes, texts)
        self._text_bytes += len(texts)

    def code(self, names: list[str], name: str) -> int:
        """The number of a codec or an extension, new ones being added."""
        if name not in names:
            names.append(name)
        return names.index(name)

    def close(self, shards: Sequence[str], sources: Any) -> None:
        """Describe the table: the shards' paths, relative to the dataset's folder, and what it was made from."""
        ends = {"video": self._counts["video"], "image": sum(self._counts.values())}
        if self._next != ends:
            raise AssertionError(f"wrote up to rows {self._next}, announced {ends}")
        description = {
            "version": VERSION,
            **self._counts,
            "texts": self._text_bytes,
            "codecs": self.codecs,
            "extensions": self.extensions,
            "shards": list(shards),
            "sources": sources,
        }
        data = json.dumps(description).encode()
        self._write(self._texts_at + self._text_bytes, data + TRAILER.pack(len(data), MAGIC))

    def _write(self, position: int, data: bytes) -> None:
        self._file.seek(position)
        self._file.write(data)


class Table:
    """A table in a file (given by path) or in memory (given as bytes). Raises DataError if it is damaged.

    It goes to another process as its path, and there only if the file is still the same one.
    """

    def __init__(self, source: Path | bytes, folder: Path | str) -> None:
        """folder: where its shards lie; a URL as text."""
        self.source, self.folder = source, folder
        self._open()

    def _open(self) -> None:
        self._fd = -1
        try:
            if isinstance(self.source, Path):
                self._fd = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC)
            size = len(self.source) if isinstance(self.source, bytes) else os.fstat(self._fd).st_size
            length, magic = TRAILER.unpack(self._read(size - TRAILER.size, TRAILER.size))
            if magic != MAGIC or length > size:
                raise ValueError("no table")
            self._description = self._read(size - TRAILER.size - length, length)
            description = json.loads(self._description)
            if description["version"] != VERSION:
                raise ValueError(f"version {description['version']}, wanted {VERSION}")
            self.videos, self.images = int(description["video"]), int(description["image"])
            self.codecs, self.extensions = tuple(description["codecs"]), tuple(description["extensions"])
            self.names = tuple(map(str, description["shards"]))
            self.shards = tuple(self._shard(name) for name in self.names)
            self.sources = description["sources"]
            self._start, self._texts_at = _layout(self.videos + self.images)
            if self._texts_at + description["texts"] + length + TRAILER.size != size:
                raise ValueError(f"{size} bytes do not fit its description")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise DataError(f"table {self._name}: cannot be read: {error!r}. Delete it: it is made anew") from None

    def _shard(self, name: str) -> str:
        """The path of a shard; a Path turns any URL that a damaged table may name into a local one."""
        return f"{self.folder}/{name}" if isinstance(self.folder, str) else str(self.folder / name)

    @property
    def _name(self) -> str:
        return str(self.source) if isinstance(self.source, Path) else f"of {self.folder}"

    def __len__(self) -> int:
        return self.videos + self.images

    def column(self, name: str) -> np.ndarray:
        """One of COLUMNS for all rows, read only; `shard` and `codec` count in `shards` and `codecs`."""
        start, dtype, n = self._start[name], ROW[name], len(self)
        return np.frombuffer(self._buffer, dtype, n, start) if n else np.empty(0, dtype)

    @cached_property
    def _buffer(self) -> bytes | mmap.mmap:
        return self.source if isinstance(self.source, bytes) else mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)

    def row(self, i: int) -> dict[str, Any]:
        """Everything about row i, texts included. Raises DataError if the table is damaged."""
        try:
            row = np.frombuffer(self._read(i * ROW.itemsize, ROW.itemsize), ROW)[0]
            key_bytes = int(row["key_bytes"])
            text = self._read(self._texts_at + int(row["text"]), key_bytes + int(row["caption_bytes"]))
            key, caption = text[:key_bytes].decode(), text[key_bytes:].decode()
            return {
                "shard": self.shards[row["shard"]],
                "key": key,
                "kind": "video" if i < self.videos else "image",
                "member": f"{key}.{self.extensions[row['extension']]}",
                "offset": int(row["offset"]),
                "size": int(row["size"]),
                "sha256": row["sha256"].tobytes().hex(),
                "caption": caption,
                "frames": int(row["frames"]),
                "fps": float(row["fps"]) if i < self.videos else None,
                "vfr": bool(row["vfr"]),
                "width": int(row["width"]),
                "height": int(row["height"]),
                "duration": float(row["duration"]),
                "codec": self.codecs[row["codec"]],
                "caption_offset": int(row["caption_offset"]),
                "caption_size": int(row["caption_size"]),
            }
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"table {self._name}, row {i}: {error!r}. Delete it: it is made anew") from None

    def hashes(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """SHA-256 of the media, and of the captions, of rows first .. first + count: uint8 (count, 32) each."""
        rows = np.frombuffer(self._buffer, ROW, count, first * ROW.itemsize)
        starts = self._texts_at + rows["text"].astype(np.int64) + rows["key_bytes"]
        ends = starts + rows["caption_bytes"]
        texts = (self._buffer[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
        captions = b"".join(hashlib.sha256(text).digest() for text in texts)
        media = np.ascontiguousarray(rows["sha256"]).view(np.uint8)
        return media.reshape(-1, 32), np.frombuffer(captions, np.uint8).reshape(-1, 32)

    def _read(self, offset: int, size: int) -> bytes:
        if isinstance(self.source, bytes):
            data = self.source[max(offset, 0) : max(offset, 0) + size]
        else:
            data = os.pread(self._fd, size, offset) if offset >= 0 else b""
        if len(data) != size:
            raise ValueError(f"{len(data)} of {size} bytes at {offset}")
        return data

    def __getstate__(self) -> tuple[Path | bytes, Path | str, bytes]:
        return self.source, self.folder, self._description

    def __setstate__(self, state: tuple[Path | bytes, Path | str, bytes]) -> None:
        self.source, self.folder, description = state
        self._open()
        if self._description != description:
            raise DataError(f"table {self._name}: was replaced while it was in use; start again")

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)


class Selection:
    """Some of n rows, in order: one bit a row, and the i-th of them found at once."""

    def __init__(self, mask: np.ndarray) -> None:
        self._rows = len(mask)
        self._bits = np.packbits(mask)
        counts = np.add.reduceat(mask, np.arange(0, len(mask), 8 * BLOCK), dtype=np.int64) if len(mask) else mask
        self._before = np.append(np.int64(0), counts.cumsum())

    def __len__(self) -> int:
        return int(self._before[-1])

    @property
    def mask(self) -> np.ndarray:
        """bool (n,)."""
        return np.unpackbits(self._bits, count=self._rows).view(bool)

    def __getitem__(self, i: int) -> int:
        """The row that comes i-th, 0 <= i < len."""
        block = int(np.searchsorted(self._before, i, side="right")) - 1
        bits = np.unpackbits(self._bits[block * BLOCK : (block + 1) * BLOCK])
        return block * BLOCK * 8 + int(np.flatnonzero(bits)[i - self._before[block]])


class Part:
    """A run of a table's rows, or some of them: rows of one kind."""

    def __init__(self, table: Table, kind: str, chosen: Selection | None = None) -> None:
        self.table, self.kind, self.chosen = table, kind, chosen
        self._first = 0 if kind == "video" else table.videos
        self._count = table.videos if kind == "video" else table.images

    def __len__(self) -> int:
        return self._count if self.chosen is None else len(self.chosen)

    def row(self, i: int) -> dict[str, Any]:
        """As `Table.row`, for the i-th of these."""
        return self.table.row(self._first + (i if self.chosen is None else self.chosen[i]))

    def column(self, name: str) -> np.ndarray:
        """As `Table.column`, for these."""
        values = self.table.column(name)[self._first : self._first + self._count]
        return values if self.chosen is None else values[self.chosen.mask]

    def hashes(self, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `Table.hashes`, for these, at most `chunk` at a time."""
        mask = None if self.chosen is None else self.chosen.mask
        for start in range(0, self._count, chunk):
            end = min(start + chunk, self._count)
            media, captions = self.table.hashes(self._first + start, end - start)
            yield (media, captions) if mask is None else (media[mask[start:end]], captions[mask[start:end]])

    def where(self, mask: np.ndarray) -> "Part":
        """Those of these for which `mask`, bool (len,), is true."""
        if self.chosen is not None:
            whole = self.chosen.mask
            whole[whole] = mask
            mask = whole
        return Part(self.table, self.kind, Selection(mask))


def _layout(rows: int) -> tuple[dict[str, int], int]:
    """Where each column starts, and where the texts do."""
    position, start = rows * ROW.itemsize, {}
    for name in COLUMNS:
        position += -position % 64
        start[name] = position
        position += rows * ROW[name].itemsize
    return start, position
