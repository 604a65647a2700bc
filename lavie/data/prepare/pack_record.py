"""The record of what was packed into a folder, `packed.jsonl`: so that packing goes on after a stop, and adds later.

The first line holds the options of the packing. Then comes a line for each captioned file, in the order of packing, and
after those of each shard a line that names the shard and its size. Lines after the last of these are those of a shard
that was never finished: they are dropped, and the shard is packed again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import DataError
from ..shards.index_file import index_path

RECORD = "packed.jsonl"
"""Name of the record in a folder of packed shards."""
FORMAT = 1
"""The version of the record's format."""


@dataclass(frozen=True)
class Line:
    """What became of one captioned file."""

    src: str
    """The absolute path of the source."""
    name: str
    """The file's name in the source."""
    number: int
    """Where its key begins; each file of a folder of shards has another."""
    stamp: str
    """`CaptionedFile.stamp`."""
    sha256: str
    """The SHA-256 of the bytes in the source; empty where they were not read."""
    caption_sha256: str
    """The SHA-256 of the clean caption, or of the raw one where that is refused."""
    segment: str
    """The part of the film; empty for a whole file."""
    shard: str | None
    """Name of the shard that holds it; None where it cannot train."""
    reason: str = ""
    """Why it cannot train: the class of the fault."""
    detail: str = ""
    """What exactly is wrong with it."""


class PackRecord:
    """The record of one folder, held open and locked while files are packed into it.

    Attributes:
        lines: what earlier calls have packed or rejected.
        shards: names of the shards that they have finished.
    """

    def __init__(self, out: Path, file: BinaryIO, options: Mapping[str, Any]) -> None:
        """Read the record of the folder `out` from its open file, or begin it; use `open_record`."""
        self._out, self._file = out, file
        self._waiting: list[Line] = []
        self.lines: list[Line] = []
        self.shards: list[str] = []
        self._read(options)

    def add(self, line: Line) -> None:
        """Take a line that is written with the next `finish`."""
        self._waiting.append(line)

    def finish(self, shard: Path | None = None) -> None:
        """Write the lines that wait, and that a shard is finished if one is given."""
        if not self._waiting and shard is None:
            return
        end = {"end": None if shard is None else shard.name, "bytes": shard.stat().st_size if shard else 0}
        self._write(*map(asdict, self._waiting), end)
        self._waiting.clear()

    def _write(self, *values: Mapping[str, Any]) -> None:
        self._file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, options: Mapping[str, Any]) -> None:
        """Read all finished lines, cut off the others, and compare the options and the shards."""
        path = self._out / RECORD
        text = self._file.read()
        if not text.endswith(b"\n"):
            text = text[: text.rfind(b"\n") + 1]
        try:
            values = [json.loads(line) for line in text.splitlines()]
            header = values[0] if values else None
            if header is not None and header.get("format") != FORMAT:
                raise ValueError(f"format {header.get('format')}, wanted {FORMAT}")
            sizes, finished, of_shard = {}, 1, []
            for number, value in enumerate(values[1:], start=2):
                if "end" not in value:
                    of_shard.append(Line(**value))
                    continue
                if value["end"] is not None:
                    sizes[value["end"]] = value["bytes"]
                self.lines += of_shard
                of_shard, finished = [], number
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. Delete the folder's files and pack it anew") from None

        # A folder without a shard binds nobody to the options that left it without one.
        given = {"format": FORMAT, **options}
        if header is not None and not sizes and header != given:
            header, self.lines = None, []
        self.shards = list(sizes)
        self._check_shards(bool(values), sizes)
        if header is None:
            self._file.truncate(0)
            self._file.seek(0)
            self._write(given)
            return
        if different := [
            f"{key} {header.get(key)}, now {given[key]}" for key in given if header.get(key) != given[key]
        ]:
            raise DataError(
                f"OUT {self._out}: was packed with {'; '.join(different)}: its clips were judged by that. Give the "
                "same options, or another folder"
            )
        length = sum(len(line) for line in text.splitlines(keepends=True)[:finished])
        self._file.truncate(length)
        self._file.seek(length)

    def _check_shards(self, begun: bool, sizes: Mapping[str, int]) -> None:
        """Remove what an interrupted packing has left, and refuse a folder with other shards than the record names."""
        if begun:
            for unfinished in (shard_path(self._out, len(sizes)), shard_path(self._out, len(sizes), partial=True)):
                index_path(unfinished).unlink(missing_ok=True)
                unfinished.unlink(missing_ok=True)
        found = {path.name: path.stat().st_size for path in self._out.glob("*.tar")}
        if foreign := sorted(found.keys() - sizes.keys()):
            raise DataError(
                f"OUT {self._out}: holds {foreign[0]}, of which no {RECORD} tells: it was packed elsewhere. Give "
                "another folder, or delete its shards first"
            )
        for name, size in sizes.items():
            if found.get(name) != size or not index_path(self._out / name).is_file():
                what = "is gone" if name not in found else f"has {found[name]} bytes and not {size}, or no index"
                raise DataError(
                    f"OUT {self._out}: {name} {what}: restore it, or delete the folder's files and pack anew"
                )


@contextmanager
def open_record(out: Path, options: Mapping[str, Any]) -> Iterator[PackRecord]:
    """Open the record of the folder `out`, which is made if need be, for this process alone.

    Args:
        out: the folder.
        options: what the packing is decided by, as JSON holds it.

    Raises:
        DataError: another process packs into the folder; or it was packed with other options, is damaged, or holds
            shards of another origin.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / RECORD, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"OUT {out}: another process packs into it") from None
        except OSError:
            pass  # a file system without locks
        file.seek(0)
        yield PackRecord(out, file, options)


def shard_path(out: Path, number: int, *, partial: bool = False) -> Path:
    """Return the path of a folder's shard by its number, or the name that it has until it is finished."""
    return out / f"{number:05d}.tar{'.partial' * partial}"
