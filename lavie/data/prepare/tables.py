"""Tables of captioned media, csv or jsonl, with a row for each medium or each captioned part of a film."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...json_text import once
from ..shards.index_file import MEDIA, Rejected
from .captioned_file import CaptionedFile, Passed, file_on_disk, printable
from .segments import COLUMNS as SEGMENT_COLUMNS
from .segments import Segment

TABLES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
"""Names of the table that a folder may hold; the first that is found is read."""
MEDIA_COLUMNS = (
    *("path", "file_path", "filepath", "video_path", "image_path", "media_path"),
    *("video", "image", "media", "file_name", "filename", "file"),
)
"""Columns that may hold the path of a medium, in any case; the first that is filled in counts."""
CAPTION_COLUMNS = ("text", "caption", "cap", "prompt", "description")
"""Columns that may hold the caption, in any case; the first that is filled in counts."""
CHANGING_COLUMNS = re.compile(
    r"""
    .*(start|begin|onset|offset|timestamp|timecode).*  # start_s, clip_start, begin_frame, t_start
    | segments? | intervals? | trim
    | (.*[^a-z])? (end|stop) ([^a-z].*)? | (end|stop)(time|frame|sec|seconds|s|ms)  # end_ms, t_end; not gender or trend
    | (mark)?(in|out)([^a-z]?(point|frame|time|sec|s|ms))? | from | to | span | clip | (time|frame)[^a-z]?range
    | (first|last)[^a-z]?frame
    | (.*[^a-z])?speed | mirror(ed)? | roi | crop.* | bbox.* | rotat(e|ion) | flip
    | negative[^a-z]?(prompt|caption|text) | (sampling[^a-z]?)?weight | (num[^a-z]?)?repeats?
    """,
    re.VERBOSE,
)
"""Columns by which a user says what a sample shows, or how it is used, and that are not read: a table that has one is
refused, for its captions would stand beside other pictures than they were written for."""

RATE_COLUMN = "fps"
"""The column that says a film's frames per second, with which the film is compared: a part in frames, or a caption of
how fast things move, was written for that rate."""


def read_table(table: Path, listed: set[Path] | None = None) -> Iterator[CaptionedFile | Rejected | Passed]:
    """Read the rows of a csv or jsonl; relative paths start at the table's folder.

    Args:
        table: the file.
        listed: takes the real paths of all media that the table names.

    Raises:
        DataError: a line is no row, or the table has one of CHANGING_COLUMNS.
    """
    seen: set[tuple[str, Segment | None]] = set()
    for line, row in table_rows(table):
        position = f"{table.name}, line {line}"
        media = first_filled(row, MEDIA_COLUMNS)
        caption = first_filled(row, CAPTION_COLUMNS)
        filled = sorted(column for column, value in row.items() if _is_filled(value))
        if refused := [c for c in filled if c not in SEGMENT_COLUMNS and CHANGING_COLUMNS.fullmatch(c)]:
            raise DataError(
                f"{table}, line {line}: the column {refused[0]!r} is not read, and changes what a sample is. Parts of "
                f"a film are given by {' | '.join(SEGMENT_COLUMNS)} (start and end in seconds): rename the column, or "
                "leave it out"
            )
        # Only one column of each kind counts, and any other is told of.
        read = {RATE_COLUMN, *SEGMENT_COLUMNS, media and media[0], caption and caption[0]}
        yield from (Passed(position, f"column not read: {column}") for column in row if column not in read)

        if media is None or not isinstance(media[1], str):
            yield Rejected(position, "no media path", f"wanted a column {' | '.join(MEDIA_COLUMNS)}")
            continue
        if listed is not None:
            listed.add((table.parent / media[1]).resolve())
        if caption is None or not isinstance(caption[1], str):
            yield Rejected(media[1], "no caption", f"{position}: wanted a column {' | '.join(CAPTION_COLUMNS)}")
            continue
        try:
            segment = Segment.of_row(row)
            fps = _rate(row.get(RATE_COLUMN))
        except DataError as error:
            yield Rejected(media[1], "unusable row", f"{position}: {error}")
            continue
        if (media[1], segment) in seen:
            yield Rejected(media[1], "duplicate key", f"{position}: listed before")
            continue
        seen.add((media[1], segment))
        yield listed_file(media[1], table.parent / media[1], caption[1], segment, fps)


def listed_file(
    name: str, path: Path, caption: str, segment: Segment | None = None, fps: float | None = None
) -> CaptionedFile | Rejected:
    """Return the captioned file that a table or list names, unless it is no media file or does not exist."""
    name = printable(name)
    if path.suffix[1:].lower() not in MEDIA:
        return Rejected(name, "unknown extension", f"wanted {', '.join(f'.{extension}' for extension in MEDIA)}")
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # a name too long, or with characters that no name has
        return Rejected(name, "missing file", f"no file can have this name: {error}")
    if not found:
        return Rejected(name, "missing file", f"no file {printable(str(path))}")
    return file_on_disk(name if segment is None else f"{name} [{segment}]", path, caption, segment, fps)


def _rate(value: Any) -> float | None:
    """Return the rate that a cell gives, None if it is empty. Raises DataError if it is no rate."""
    if not _is_filled(value):
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise DataError(f"{RATE_COLUMN} is {value!r}: wanted frames per second")
    return rate


def first_filled(row: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[str, Any] | None:
    """Return the first of some columns that is filled in, and its value; None if none is."""
    return next(((column, row[column]) for column in columns if _is_filled(row.get(column))), None)


def _is_filled(value: Any) -> bool:
    """Return whether a cell holds anything."""
    return value not in (None, "", [], {})


def table_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the columns of each row that is not empty, their names in lower case without blanks.

    Raises:
        DataError: a line is no row. A broken table is to be mended, not packed in part.
    """
    number = 0
    try:
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix.lower() == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
            _plain_names((name, None) for name in reader.fieldnames or () if name)
            for row in reader:
                number = reader.line_num
                if None in row:
                    raise ValueError(f"{len(row[None])} more cells than the first line has columns")
                yield number, _plain_names(row.items())
            return
        for number, line in enumerate(text.split("\n"), start=1):
            row = json.loads(line, object_pairs_hook=once) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(f"wanted an object with a path and a caption, got {type(row).__name__}")
            if row:
                yield number, _plain_names(row.items())
    except RecursionError:
        raise DataError(f"{table}, line {number}: cannot be read as jsonl: brackets nested too deep") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: it is no UTF-8 ({error}): save it as UTF-8") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}, line {number}: cannot be read as {table.suffix[1:]}: {error}") from None


def _delimiter(text: str) -> str:
    """Return what separates the cells of a csv: a semicolon or a tab where the first line has more columns by it."""
    first = text.lstrip().partition("\n")[0]
    return max(",;\t", key=first.count)


def _plain_names(cells: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a row with its columns' names in lower case and without blanks around them."""
    return once((name.strip().lower(), value) for name, value in cells)
