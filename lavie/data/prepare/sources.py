"""The shapes in which users keep captioned media, each read into the same captioned files.

1. A tar, or a folder of tars: shards in video2dataset's layout.
2. A table, csv or jsonl, with a column of paths and a column of captions; or a folder that holds one.
3. A folder with `videos.txt` beside `prompts.txt`: line i of one belongs to line i of the other.
4. Any other folder: media files, each with a `.txt` file of the same name beside it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..shards.index_file import Rejected
from ..shards.member import read_member
from .scan import MAX_MEMBER, index_shard

MEDIA_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".gif", ".jpg", ".jpeg", ".png")
"""Suffixes of media files, in lower case; upper case is taken too."""
MEDIA_COLUMNS = ("path", "file_path", "video_path", "video", "image", "file_name")
"""Columns of a table that may hold the path of a medium; the first that is filled in counts."""
CAPTION_COLUMNS = ("text", "caption", "cap")
"""Columns of a table that may hold the caption; the first that is filled in counts."""
TABLES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
"""Names of the table that a folder may hold; the first that is found is read."""


@dataclass(frozen=True, slots=True)
class CaptionedFile:
    """One medium with its caption, not yet checked."""

    name: str
    """The name by which the user knows it: its path within the source."""
    stem: str
    """Its file name without the suffix, of which the key in a shard is made."""
    load: Callable[[], bytes]
    """A function that reads the media bytes; raises DataError."""
    caption: bytes | str
    """The caption as it was found: bytes from a file, text from a table."""


def read_source(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """Read the captioned files of `src` in a stable order, and in between what cannot be one.

    Raises:
        DataError: `src` is no source, or one of its tables or lists is broken.
    """
    if src.suffix == ".tar" and src.is_file():
        return _read_shards([src])
    if src.suffix in (".csv", ".jsonl") and src.is_file():
        return _read_table(src)
    if not src.is_dir():
        what = "a file, but no .csv, .jsonl or .tar" if src.exists() else "no such file or folder"
        raise DataError(f"SRC {src}: {what}; wanted a folder of media with .txt captions, a table of them, or shards")

    # A folder is read by the first of these shapes that it has.
    if (src / "videos.txt").is_file() and (src / "prompts.txt").is_file():
        return _read_line_to_line(src)
    for name in TABLES:
        if (src / name).is_file():
            return _read_listed_folder(src, src / name)
    if tars := sorted(src.glob("*.tar")):
        return _read_shards(tars)
    return _read_same_stems(src)


def _read_same_stems(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """Read the media that have a .txt file of the same name beside them, in `src` and all folders below."""
    media_of_caption: dict[Path, Path] = {}
    for path in sorted(p for p in src.rglob("*") if p.is_file()):
        name, caption = str(path.relative_to(src)), path.with_suffix(".txt")
        if path.suffix == ".txt":
            if not any(path.with_suffix(suffix).is_file() for suffix in _both_cases(MEDIA_SUFFIXES)):
                yield Rejected(name, "caption without media")
        elif path.suffix.lower() not in MEDIA_SUFFIXES:
            # Tools leave a .json beside a medium and its caption: no mistake, and not needed.
            if not (path.suffix == ".json" and caption.is_file()):
                yield Rejected(name, "unknown extension")
        elif not caption.is_file():
            yield Rejected(name, "no caption", f"wanted {caption.relative_to(src)}")
        elif caption in media_of_caption:
            yield Rejected(name, "duplicate key", f"{media_of_caption[caption].name} has the same caption file")
        else:
            media_of_caption[caption] = path
            yield _captioned_file(name, path, caption.read_bytes())


def _read_listed_folder(src: Path, table: Path) -> Iterator[CaptionedFile | Rejected]:
    """Read the table of a folder, and then reject the media in the folder that the table does not list."""
    listed = set()
    for file in _read_table(table):
        listed.add((src / file.name).resolve())
        yield file
    for path in sorted(p for p in src.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES):
        if path.resolve() not in listed:
            yield Rejected(str(path.relative_to(src)), "no caption", f"not listed in {table.name}")


def _read_table(table: Path) -> Iterator[CaptionedFile | Rejected]:
    """Read the rows of a csv or jsonl; relative paths start at the table's folder."""
    seen = set()
    for line, row in _rows(table):
        media = next((row[column] for column in MEDIA_COLUMNS if row.get(column)), None)
        caption = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), None)
        position = f"{table.name}, line {line}"
        if not isinstance(media, str):
            yield Rejected(position, "no media path", f"wanted a column {' | '.join(MEDIA_COLUMNS)}")
        elif not isinstance(caption, str):
            yield Rejected(media, "no caption", f"{position}: wanted a column {' | '.join(CAPTION_COLUMNS)}")
        elif media in seen:
            yield Rejected(media, "duplicate key", f"{position}: listed before")
        else:
            seen.add(media)
            yield _listed_file(media, table.parent / media, caption)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the columns of each row that is not empty.

    Raises:
        DataError: a line is no row. A broken table is to be mended, not packed in part.
    """
    number = 0
    try:
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            for row in reader:
                number = reader.line_num
                yield number, row
            return
        for number, line in enumerate(text.split("\n"), start=1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(f"wanted an object with a path and a caption, got {type(row).__name__}")
            if row:
                yield number, row
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}, line {number}: cannot be read as {table.suffix[1:]}: {error}") from None


def _read_line_to_line(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """Read a folder where line i of prompts.txt is the caption of the file that line i of videos.txt names."""
    lines = {}
    for name in ("videos.txt", "prompts.txt"):
        try:
            lines[name] = (src / name).read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        except (OSError, ValueError) as error:
            raise DataError(f"{src / name}: cannot be read: {error}") from None
    videos, prompts = lines["videos.txt"], lines["prompts.txt"]
    if len(videos) != len(prompts):
        raise DataError(f"{src}: videos.txt has {len(videos)} lines and prompts.txt {len(prompts)}: wanted one each")

    seen = set()
    for line, prompt in zip(videos, prompts, strict=True):
        media = line.strip()
        if media in seen:
            yield Rejected(media, "duplicate key", "listed before in videos.txt")
            continue
        seen.add(media)
        yield _listed_file(media, src / media, prompt)


def _read_shards(tars: list[Path]) -> Iterator[CaptionedFile | Rejected]:
    """Read the samples of shards, and before those of each shard what of it cannot be used."""
    for tar in tars:
        samples, rejected = index_shard(tar)
        yield from (Rejected(f"{tar.name}:{item.name}", item.reason, item.detail) for item in rejected)
        for sample in samples:
            name = f"{tar.name}:{sample.member}"
            yield CaptionedFile(name, Path(sample.key).name, partial(read_member, sample), sample.caption)


def _listed_file(name: str, path: Path, caption: str) -> CaptionedFile | Rejected:
    """Return the captioned file that a table or list names, unless it is no media file or does not exist."""
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        return Rejected(name, "unknown extension", f"wanted {', '.join(MEDIA_SUFFIXES)}")
    if not path.is_file():
        return Rejected(name, "missing file", f"no file {path}")
    return _captioned_file(name, path, caption)


def _captioned_file(name: str, path: Path, caption: bytes | str) -> CaptionedFile:
    """Return a captioned file whose bytes are read when they are asked for."""

    def load() -> bytes:
        """Return the bytes of the file. Raises DataError if it is too large or cannot be read."""
        try:
            if path.stat().st_size > MAX_MEMBER:
                raise DataError(f"{path.stat().st_size} bytes: at most {MAX_MEMBER} are read, split it into clips")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error}") from None

    return CaptionedFile(name, path.stem, load, caption)


def _both_cases(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return suffixes + tuple(suffix.upper() for suffix in suffixes)
