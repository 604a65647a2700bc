"""A unit as a stage sees it: its films, the columns that earlier stages made of it, and its place for files."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .films import Film, FilmList
from .table import SIDE, Frames, columns_path, read_table, side_path

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Unit:
    """A group of films that is worked on together."""

    name: str
    """Six digits."""
    out: Path
    """The folder of the curation."""
    src: Path
    """The folder of the films."""
    films: tuple[Film, ...]
    """Its films, in their order; the file of one is `src / film.film`."""
    folder: Path | None = None
    """Where unfinished files go while a stage works on the unit."""
    side: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    """The files beside the columns that were asked for, by kind: where each is written, and where it will lie."""

    def read(self, stage: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return the unit's columns of an earlier stage, or some of them in the given order.

        Raises:
            DataError: they are missing.
        """
        return read_table(columns_path(self.out, stage, self.name), columns)

    def frames(self) -> Frames:
        """Return the values of every decoded frame, by film and by name; the caller's stage reads "scan".

        Raises:
            DataError: they are missing or damaged.
        """
        return Frames(side_path(self.out, "frames", self.name))

    def clip_bytes(self, row: Mapping[str, Any]) -> bytes:
        """Return the file of a clip; the caller's stage reads "cut".

        Args:
            row: its `clip`, its `offset` and `bytes` in the unit's tar, and its `sha256`, as `cut` has them.

        Raises:
            DataError: the tar is missing, or the bytes are not those that were cut.
        """
        path = side_path(self.out, "clips", self.name)
        remedy = f"`lavie curate cut {self.out}` makes the same clips again"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DataError(f"{path}: missing: {remedy}") from None
        try:
            data = os.pread(descriptor, row["bytes"], row["offset"])
        finally:
            os.close(descriptor)
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise DataError(
                f"{path}: clip {row['clip']} of unit {self.name} is not as it was cut: remove the file, and {remedy}"
            )
        return data

    def partial(self, kind: str, suffix: str = "") -> Path:
        """Return where to write a file that lies at OUT/<kind>/<unit><suffix> when the unit is done.

        Args:
            kind: the name of its folder.
            suffix: the end of its name; "frames" and "clips" have one of their own.
        """
        assert self.folder is not None, "a unit has partial files only while a stage works on it"
        final = side_path(self.out, kind, self.name, suffix or SIDE[kind])
        return self.side.setdefault(kind, (self.folder / f"{self.name}.{kind}{suffix or SIDE[kind]}", final))[0]


def units_of(out: Path, films: FilmList) -> list[Unit]:
    """Return the units of a curation, in the order of their names."""
    return [Unit(name, out, films.src, group) for name, group in sorted(films.units.items())]
