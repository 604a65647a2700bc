"""The captioner `sidecar`: captions that are there already, beside the films or in a table.

1. `sidecar`: the text in a.txt beside a.mp4 is the caption of every clip of that film.
2. `sidecar:TABLE`: a csv, jsonl or parquet. A row names a clip (column `clip`), or a film by its path (`film`, or one
   of `tables.MEDIA_COLUMNS`) with `start` and `end` in seconds, or `start_frame` and `end_frame`, or neither for all.

A row of the clip itself comes first, then of the parts of its film the one with most time in common, the shortest of
several; that time has to be half of the clip or half of the part. A row of the whole film comes last.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import normpath, relpath
from pathlib import Path
from typing import Any

from ...data.prepare.captions import MAX_BYTES
from ...data.prepare.segments import COLUMNS as SEGMENT_COLUMNS
from ...data.prepare.segments import Segment
from ...data.prepare.tables import CAPTION_COLUMNS, CHANGING_COLUMNS, MEDIA_COLUMNS, first_filled, table_rows
from ...errors import ConfigError, DataError
from ..films import text_beside
from ..table import arrow
from .base import Asked, NoCaption

FILM_COLUMNS = ("film", *MEDIA_COLUMNS)
"""Columns that may hold the path of a film, in any case; the first that is filled in counts."""
SHARE = 0.5
"""The least share of a clip, or of the part that a caption was written for, that both have in common."""
SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Told:
    """A row of a table: what is told of a clip, or of a part of a film."""

    caption: str
    part: Segment | None
    """None: of the whole film, or of the clip that is named."""


class TextsBeside:
    """Takes the texts beside the films."""

    name, looks, cut_off, batch = "sidecar", False, False, 1024

    def __init__(self, src: Path) -> None:
        """Take the folder of the films."""
        self._src = src

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the text beside the film of each clip."""
        return [self._text(one.row["film"]) for one in asked]

    def _text(self, film: str) -> str | NoCaption:
        """Return the text beside a film."""
        path = text_beside(self._src, film)
        if not path.is_file():
            return NoCaption("no caption", f"wanted {path.name} beside {film}")
        if path.stat().st_size > MAX_BYTES:
            return NoCaption("unusable caption", f"{path.name} has more than {MAX_BYTES} bytes")
        try:
            return path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return NoCaption("unusable caption", f"{path.name} is not UTF-8: {error}")


def check_table(table: Path) -> None:
    """Raise ConfigError unless a path is that of a table."""
    if table.suffix.lower() not in SUFFIXES or not table.is_file():
        what = "no such file" if not table.exists() else "not one"
        raise ConfigError(f"caption.captioner sidecar:{table}: {what}; wanted a {', '.join(SUFFIXES)}")


class SidecarTable:
    """Takes captions out of a table."""

    looks, cut_off, batch = False, False, 1 << 20

    def __init__(self, table: Path, src: Path) -> None:
        """Take a table, as `check_table` wants it, and the folder of the films."""
        self.name, self._table, self._src = f"sidecar:{table.name}", table, src

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the caption of each clip.

        Raises:
            DataError: the table cannot be read, or a row of one of these clips or films is broken.
        """
        films = {film: self._names(film) for film in dict.fromkeys(one.row["film"] for one in asked)}
        wanted = [one.row["clip"] for one in asked] + [name for names in films.values() for name in names]
        facts = self._table.stat()
        if self._table.suffix.lower() == ".parquet":
            told: Mapping[str, list[Told]] = _index(_parquet_rows(self._table, set(wanted)), self._table)
        else:
            told = _read_text(self._table, facts.st_size, facts.st_mtime_ns)
        return [self._answer(one.row, told, films[one.row["film"]]) for one in asked]

    def _names(self, film: str) -> list[str]:
        """Return the paths by which a table may name a film: in the source, from the table's folder, or whole."""
        path = self._src / film
        return list(dict.fromkeys([film, relpath(path, self._table.parent), str(path)]))

    def _answer(self, row: Mapping[str, Any], told: Mapping[str, list[Told]], names: list[str]) -> str | NoCaption:
        """Return what a table tells of a clip."""
        if own := told.get(f"clip {row['clip']}"):
            return own[0].caption
        rows = [one for name in names for one in told.get(f"film {name}", ())]
        best: tuple[tuple[float, float], str] | None = None
        for one in rows:
            common = (0.0, 0.0) if one.part is None else _common(row, one.part)
            if common is not None and (best is None or common > best[0]):
                best = common, one.caption
        if best is not None:
            return best[1]
        where = f"{row['film']} from {row['t0']:.2f} to {row['t1']:.2f} s"
        return NoCaption("no caption", f"{self._table.name} has no row of the clip, nor of {where}")


def _common(row: Mapping[str, Any], part: Segment) -> tuple[float, float] | None:
    """Return what a clip and a part of its film have in common, as a share of the clip, and how short the part is.

    None where it is less than SHARE of both.
    """
    first, last = (row["start"], row["end"]) if part.unit == "frames" else (row["t0"], row["t1"])
    end = float("inf") if part.end is None else part.end
    common, clip, length = min(last, end) - max(first, part.start), last - first, end - part.start
    if common <= 0 or (common < SHARE * clip and common < SHARE * length):
        return None
    return common / clip, -length / clip


@functools.lru_cache(maxsize=1)
def _read_text(table: Path, size: int, written: int) -> Mapping[str, list[Told]]:
    """Return all rows of a csv or jsonl of this size and time of writing; the last one is kept for the next unit."""
    return _index(((f"line {number}", row) for number, row in table_rows(table)), table)


def _parquet_rows(table: Path, names: set[str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet that name one of some clips or films; row groups of others are passed over."""
    pa = arrow()
    try:
        columns = pa.parquet.read_schema(table).names
        plain = {name: name.strip().lower() for name in columns}
        keys = [name for name in columns if plain[name] in ("clip", *FILM_COLUMNS)]
        if not keys:
            raise DataError(f"{table}: no column clip | {' | '.join(FILM_COLUMNS)}")
        chosen = functools.reduce(lambda a, b: a | b, (pa.compute.field(key).isin(sorted(names)) for key in keys))
        rows = pa.parquet.read_table(table, filters=chosen).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{table}: cannot be read as parquet: {error}") from None
    for row in rows:
        found = {plain[name]: value for name, value in row.items()}
        yield f"a row of {next(value for name, value in found.items() if value in names)}", found


def _index(rows: Iterable[tuple[str, dict[str, Any]]], table: Path) -> dict[str, list[Told]]:
    """Return rows, each with where it stands, by the clip or film that they are about.

    Raises:
        DataError: a row names neither, or has no caption, or its part is none; or two are about the same.
    """
    told: dict[str, list[Told]] = {}
    seen: dict[tuple[str, Segment | None], str] = {}
    for place, row in rows:
        where = f"{table}, {place}"
        caption, film = first_filled(row, CAPTION_COLUMNS), first_filled(row, FILM_COLUMNS)
        clip = first_filled(row, ("clip",))
        if caption is None or not isinstance(caption[1], str):
            continue  # clips without a caption are named one by one
        if clip is None and (film is None or not isinstance(film[1], str)):
            raise DataError(f"{where}: it names neither a clip nor a film: wanted clip | {' | '.join(FILM_COLUMNS)}")
        if clip is not None:
            key, part = f"clip {clip[1]}", None
        else:
            assert film is not None
            _check_columns(row, where)
            try:
                key, part = f"film {normpath(film[1])}", Segment.of_row(row)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        if (key, part) in seen:
            raise DataError(f"{where}: {seen[key, part]} is about the same {key.partition(' ')[0]}, or part of it")
        seen[key, part] = place
        told.setdefault(key, []).append(Told(caption[1], part))
    return told


def _check_columns(row: Mapping[str, Any], where: str) -> None:
    """Raise DataError if a row of a film has columns that say in other words what part of it is meant."""
    for name, value in row.items():
        if value not in (None, "") and name not in SEGMENT_COLUMNS and CHANGING_COLUMNS.fullmatch(name):
            raise DataError(
                f"{where}: the column {name!r} is not read, and changes what the caption is about: parts of a film are "
                f"given by {' | '.join(SEGMENT_COLUMNS)} (start and end in seconds); rename it, or leave it out"
            )
