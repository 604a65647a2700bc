"""The shapes in which users keep captioned media, each read into the same entries.

A folder of same-stem media and `.txt` files, a table (csv or jsonl) of paths and captions, `videos.txt` beside
`prompts.txt`, or shards in video2dataset's layout.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import DataError
from ..shards.index_file import Rejected
from ..shards.member import read_member
from .scan import MAX_MEMBER, index_shard

MEDIA_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".gif", ".jpg", ".jpeg", ".png")
MEDIA_COLUMNS = ("path", "file_path", "video_path", "video", "image", "file_name")
CAPTION_COLUMNS = ("text", "caption", "cap")
TABLES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
"""What a folder may hold to name its media and captions; the first found is read."""


@dataclass(frozen=True, slots=True)
class CaptionedFile:
    """One medium with its caption, not yet checked."""

    name: str
    """As the user knows it."""
    stem: str
    load: Callable[[], bytes]
    """Reads the media bytes; raises DataError."""
    caption: bytes | str


def read_source(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """What `src` holds, in a stable order, and what of it cannot be an entry. Raises DataError if it is no source."""
    if src.suffix == ".tar" and src.is_file():
        return _shards([src])
    if src.suffix in (".csv", ".jsonl") and src.is_file():
        return _table(src)
    if not src.is_dir():
        what = "a file, but no .csv, .jsonl or .tar" if src.exists() else "no such file or folder"
        raise DataError(f"SRC {src}: {what}; wanted a folder of media with .txt captions, a table of them, or shards")
    if (src / "videos.txt").is_file() and (src / "prompts.txt").is_file():
        return _line_to_line(src)
    for name in TABLES:
        if (src / name).is_file():
            return _listed_folder(src, src / name)
    if tars := sorted(src.glob("*.tar")):
        return _shards(tars)
    return _same_stem(src)


def _same_stem(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """Media with a .txt of the same name beside them, in all folders below `src`."""
    taken: dict[Path, Path] = {}
    for path in sorted(p for p in src.rglob("*") if p.is_file()):
        name, caption = str(path.relative_to(src)), path.with_suffix(".txt")
        if path.suffix == ".txt":
            if not any(path.with_suffix(s).is_file() for s in _both_cases(MEDIA_SUFFIXES)):
                yield Rejected(name, "caption without media")
        elif path.suffix.lower() not in MEDIA_SUFFIXES:
            if not (path.suffix == ".json" and caption.is_file()):
                yield Rejected(name, "unknown extension")
        elif not caption.is_file():
            yield Rejected(name, "no caption", f"wanted {caption.relative_to(src)}")
        elif caption in taken:
            yield Rejected(name, "duplicate key", f"{taken[caption].name} has the same caption file")
        else:
            taken[caption] = path
            yield _file_entry(name, path, caption.read_bytes())


def _listed_folder(src: Path, table: Path) -> Iterator[CaptionedFile | Rejected]:
    """The entries of a table inside a folder, then the media there that it does not list."""
    listed = set()
    for entry in _table(table):
        listed.add((src / entry.name).resolve())
        yield entry
    for path in sorted(p for p in src.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES):
        if path.resolve() not in listed:
            yield Rejected(str(path.relative_to(src)), "no caption", f"not listed in {table.name}")


def _table(table: Path) -> Iterator[CaptionedFile | Rejected]:
    """The rows of a csv or jsonl; relative paths start at its folder."""
    seen = set()
    for line, row in _rows(table):
        media = next((row[c] for c in MEDIA_COLUMNS if row.get(c)), None)
        caption = next((row[c] for c in CAPTION_COLUMNS if row.get(c)), None)
        place = f"{table.name}, line {line}"
        if not isinstance(media, str):
            yield Rejected(place, "no media path", f"wanted a column {' | '.join(MEDIA_COLUMNS)}")
        elif not isinstance(caption, str):
            yield Rejected(media, "no caption", f"{place}: wanted a column {' | '.join(CAPTION_COLUMNS)}")
        elif media in seen:
            yield Rejected(media, "duplicate key", f"{place}: listed before")
        else:
            seen.add(media)
            yield _checked_entry(media, table.parent / media, caption)


def _rows(table: Path) -> Iterator[tuple[int, dict]]:
    """(line number, row); a DataError at the first line that is none: a broken table is to be mended."""
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


def _line_to_line(src: Path) -> Iterator[CaptionedFile | Rejected]:
    """Line i of prompts.txt is the caption of the file in line i of videos.txt."""
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
    for media, prompt in zip((v.strip() for v in videos), prompts, strict=True):
        if media in seen:
            yield Rejected(media, "duplicate key", "listed before in videos.txt")
            continue
        seen.add(media)
        yield _checked_entry(media, src / media, prompt)


def _shards(tars: list[Path]) -> Iterator[CaptionedFile | Rejected]:
    for tar in tars:
        samples, rejected = index_shard(tar)
        yield from (Rejected(f"{tar.name}:{r.name}", r.reason, r.detail) for r in rejected)
        for sample in samples:
            name = f"{tar.name}:{sample.member}"
            yield CaptionedFile(name, Path(sample.key).name, partial(read_member, sample), sample.caption)


def _checked_entry(name: str, path: Path, caption: str) -> CaptionedFile | Rejected:
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        return Rejected(name, "unknown extension", f"wanted {', '.join(MEDIA_SUFFIXES)}")
    if not path.is_file():
        return Rejected(name, "missing file", f"no file {path}")
    return _file_entry(name, path, caption)


def _file_entry(name: str, path: Path, caption: bytes | str) -> CaptionedFile:
    def load() -> bytes:
        try:
            if path.stat().st_size > MAX_MEMBER:
                raise DataError(f"{path.stat().st_size} bytes: at most {MAX_MEMBER} are read, split it into clips")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error}") from None

    return CaptionedFile(name, path.stem, load, caption)


def _both_cases(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return suffixes + tuple(s.upper() for s in suffixes)
