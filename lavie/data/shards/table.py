"""The table of a dataset: all its samples in one file, for a few MiB of memory instead of tens of GiB.

25 million samples as Python objects would take every process tens of GiB. Here each sample is a row of fixed size;
videos come first, then images, so that each kind is a slice. The file has five parts, all little-endian:

1. Rows, ROW_DTYPE each: read one at a time with `pread`.
2. Columns, those of COLUMNS, by which samples are chosen: memory-mapped, and so shared by the processes of a node.
3. Texts: the keys and captions that the rows point into, read one at a time.
4. A description, JSON: counts, the names that numbers in rows stand for, and what the table was made from.
5. A trailer: the length of the description, and MAGIC.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError
from .offset_file import OffsetFile

ROW_DTYPE = np.dtype(
    [
        ("offset", "<u8"),
        ("caption_offset", "<u8"),
        ("text", "<u8"),  # where the key lies among the texts; the caption follows it
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
"""A row, 103 bytes. shard, codec and extension are numbers of names in the description; offsets and sizes, bytes."""
COLUMNS = ("size", "frames", "fps", "vfr", "width", "height", "duration", "shard", "codec")
"""The fields that have a column."""
VERSION = 2
"""The version of the file format; it rises with that of the indices that tables are made from. A table of another one
counts as damaged, and is compiled anew."""
TRAILER = struct.Struct("<Q8s")
"""The last bytes of a table: the length of the description, and MAGIC."""
MAGIC = b"LaVieTab"
"""What every table ends with."""
COLUMN_ALIGNMENT = 64
"""Each column starts at a multiple of this many bytes."""


class TableWriter:
    """Writes a table into a seekable file, which is no table before `close` has run.

    Attributes:
        codecs: the names of the codecs so far.
        extensions: the extensions of the media members so far.
    """

    def __init__(self, file: BinaryIO, videos: int, images: int) -> None:
        """Begin a table of so many videos and images."""
        self._file, self._counts = file, {"video": videos, "image": images}
        self._next_row = {"video": 0, "image": videos}
        self._column_starts, self._texts_start = _layout(videos + images)
        self._text_bytes = 0
        self.codecs: list[str] = []
        self.extensions: list[str] = []

    def add(self, kind: str, rows: np.ndarray, texts: bytes) -> None:
        """Append samples of one kind.

        Args:
            kind: "video" or "image".
            rows: (n,) of ROW_DTYPE; `text` counts from the start of `texts`, and is changed here.
            texts: the keys and captions of these samples.
        """
        rows["text"] += self._text_bytes
        first = self._next_row[kind]
        self._next_row[kind] += len(rows)
        self._write(first * ROW_DTYPE.itemsize, rows.tobytes())
        for name, start in self._column_starts.items():
            self._write(start + first * ROW_DTYPE[name].itemsize, np.ascontiguousarray(rows[name]).tobytes())
        self._write(self._texts_start + self._text_bytes, texts)
        self._text_bytes += len(texts)

    def code(self, names: list[str], name: str) -> int:
        """Return the number of a name in `codecs` or `extensions`, where it is added if it is new."""
        if name not in names:
            names.append(name)
        return names.index(name)

    def close(self, shards: Sequence[str], sources: Any) -> None:
        """Write the description and the trailer, once all rows are there.

        Args:
            shards: the paths of the shards, relative to the dataset's folder, in the order of their numbers in rows.
            sources: what the table is made from, as JSON can hold it: given back by `Table.sources`.
        """
        ends = {"video": self._counts["video"], "image": sum(self._counts.values())}
        if self._next_row != ends:
            raise AssertionError(f"wrote up to rows {self._next_row}, announced {ends}")
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
        self._write(self._texts_start + self._text_bytes, data + TRAILER.pack(len(data), MAGIC))

    def _write(self, position: int, data: bytes) -> None:
        """Write bytes at a position of the file."""
        self._file.seek(position)
        self._file.write(data)


class Table:
    """A table in a file, given by its path, or in memory, given as its bytes.

    A table in a file goes to another process as its path; the other process refuses it if the file was replaced.

    Attributes:
        videos: the number of videos, whose rows come first.
        images: the number of images.
        names: the paths of the shards relative to the dataset's folder.
        shards: the paths or URLs of the shards, which the column `shard` counts.
        codecs: the names of the codecs, which the column `codec` counts.
        extensions: the extensions of the media members.
        sources: what the table was made from, as given to `TableWriter.close`.
    """

    def __init__(self, source: Path | bytes, folder: Path | str) -> None:
        """Open a table.

        Args:
            source: the file, or its bytes.
            folder: where the shards lie; a URL as text.

        Raises:
            DataError: the table is damaged, or of another version.
        """
        self.source, self.folder = source, folder
        self._open()

    def _open(self) -> None:
        """Read the description of the table that `source` names. Raises DataError."""
        try:
            if isinstance(self.source, Path):
                self._file = OffsetFile(self.source)

            # The trailer at the end tells the length of the description before it.
            size = len(self.source) if isinstance(self.source, bytes) else self._file.size()
            length, magic = TRAILER.unpack(self._read(size - TRAILER.size, TRAILER.size))
            if magic != MAGIC or length > size:
                raise ValueError("no table")
            self._description = self._read(size - TRAILER.size - length, length)
            description = json.loads(self._description)
            if description["version"] != VERSION:
                raise ValueError(f"version {description['version']}, wanted {VERSION}")

            # The description is checked against the size of the file, since a table may have been cut off.
            self.videos, self.images = int(description["video"]), int(description["image"])
            self.codecs, self.extensions = tuple(description["codecs"]), tuple(description["extensions"])
            self.names = tuple(map(str, description["shards"]))
            self.shards = tuple(self._shard_path(name) for name in self.names)
            self.sources = description["sources"]
            self._column_starts, self._texts_start = _layout(self.videos + self.images)
            if self._texts_start + description["texts"] + length + TRAILER.size != size:
                raise ValueError(f"{size} bytes do not fit its description")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise DataError(f"table {self._name}: cannot be read: {error!r}. Delete it: it is made anew") from None

    def _shard_path(self, name: str) -> str:
        """Return the path of a shard; a Path turns any URL that a damaged table may name into a local one."""
        return f"{self.folder}/{name}" if isinstance(self.folder, str) else str(self.folder / name)

    @property
    def _name(self) -> str:
        """The table as errors name it."""
        return str(self.source) if isinstance(self.source, Path) else f"of {self.folder}"

    def __len__(self) -> int:
        return self.videos + self.images

    def column(self, name: str) -> np.ndarray:
        """Return one of COLUMNS for all rows: (len,), read only; `shard` and `codec` count in `shards` and `codecs`."""
        start, dtype, n = self._column_starts[name], ROW_DTYPE[name], len(self)
        return np.frombuffer(self._buffer, dtype, n, start) if n else np.empty(0, dtype)

    @cached_property
    def _buffer(self) -> bytes | mmap.mmap:
        """The whole table, memory-mapped where it is a file."""
        if isinstance(self.source, bytes):
            return self.source
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def row(self, i: int) -> dict[str, Any]:
        """Return the fields of the Sample in row i, texts included. Raises DataError if the table is damaged."""
        try:
            row = np.frombuffer(self._read(i * ROW_DTYPE.itemsize, ROW_DTYPE.itemsize), ROW_DTYPE)[0]
            key_bytes = int(row["key_bytes"])
            text = self._read(self._texts_start + int(row["text"]), key_bytes + int(row["caption_bytes"]))
            key, caption = text[:key_bytes].decode(), text[key_bytes:].decode()

            # The values leave as Python's own types, as those of a Sample from an index do.
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

    def keys(self, first: int, count: int) -> list[str]:
        """Return the keys of rows first .. first + count."""
        rows = np.frombuffer(self._buffer, ROW_DTYPE, count, first * ROW_DTYPE.itemsize)
        starts = (self._texts_start + rows["text"].astype(np.int64)).tolist()
        sizes = rows["key_bytes"].tolist()
        return [self._buffer[a : a + size].decode() for a, size in zip(starts, sizes, strict=True)]

    def hashes(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the SHA-256 of the media, and of the captions, of rows first .. first + count: uint8 (count, 32) each.

        The hashes of the media are in the rows; those of the captions are computed.
        """
        rows = np.frombuffer(self._buffer, ROW_DTYPE, count, first * ROW_DTYPE.itemsize)
        starts = self._texts_start + rows["text"].astype(np.int64) + rows["key_bytes"]
        ends = starts + rows["caption_bytes"]
        texts = (self._buffer[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True))
        captions = b"".join(hashlib.sha256(text).digest() for text in texts)
        media = np.ascontiguousarray(rows["sha256"]).view(np.uint8)
        return media.reshape(-1, 32), np.frombuffer(captions, np.uint8).reshape(-1, 32)

    def _read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`. Raises OSError, or ValueError if there are fewer."""
        if isinstance(self.source, bytes):
            data = self.source[max(offset, 0) : max(offset, 0) + size]
        else:
            data = self._file.read(offset, size) if offset >= 0 else b""
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


def _layout(rows: int) -> tuple[dict[str, int], int]:
    """Return where each column of a table of so many rows starts, and where its texts do, in bytes."""
    position, column_starts = rows * ROW_DTYPE.itemsize, {}
    for name in COLUMNS:
        position += -position % COLUMN_ALIGNMENT
        column_starts[name] = position
        position += rows * ROW_DTYPE[name].itemsize
    return column_starts, position
