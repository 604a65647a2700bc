"""The shapes in which users keep captioned media, each read into the same captioned files.

1. A tar, or a folder of tars: shards in video2dataset's layout.
2. A table, csv or jsonl, with a column of paths and a column of captions; or a folder that holds one.
3. A folder with `videos.txt` beside `prompts.txt`: line i of one belongs to line i of the other.
4. Any other folder: media files, each with a `.txt` file of the same name beside it.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from ...errors import DataError
from ..shards.index_file import MEDIA, Rejected
from .captioned_file import CaptionedFile, Passed, file_on_disk, printable
from .scan import CaptionedMember, captioned_members
from .system_files import SYSTEM_FILE
from .tables import TABLES, listed_file, read_table
from .walk import walk

LOOKS_LIKE_TABLE = ("csv", "tsv", "json", "jsonl", "parquet", "xlsx")
"""Extensions of files that may be a table of captions under a name that is not looked for."""

Found = CaptionedFile | Rejected | Passed
"""What a source yields."""


def read_source(src: Path) -> Iterator[Found]:
    """Read the captioned files of `src` in a stable order, and in between what cannot be one, or need not be.

    Raises:
        DataError: `src` is no source, or one of its tables or lists is broken.
    """
    if src.suffix == ".tar" and src.is_file():
        return _read_shards([src])
    if src.suffix.lower() in (".csv", ".jsonl") and src.is_file():
        return read_table(src)
    if not src.is_dir():
        what = "a file, but no .csv, .jsonl or .tar" if src.exists() else "no such file or folder"
        raise DataError(f"SRC {src}: {what}; wanted a folder of media with .txt captions, a table of them, or shards")

    # A folder is read by the first of these shapes that it has.
    if (src / "videos.txt").is_file() and (src / "prompts.txt").is_file():
        return _read_line_to_line(src)
    by_name = {path.name.lower(): path for path in sorted(src.iterdir(), reverse=True) if path.is_file()}
    for name in TABLES:
        if name in by_name:
            return _read_listed_folder(src, by_name[name])
    if tars := sorted(src.glob("*.tar")):
        return chain(_beside_shards(src), _read_shards(tars))
    return _read_same_stems(src)


def _read_same_stems(src: Path) -> Iterator[Found]:
    """Read the media that have a .txt file of the same name beside them, in `src` and all folders below."""
    # The media of each folder and stem are known before the first caption is judged; a broken link counts, so that
    # its caption is not named as well.
    found = list(walk(src))
    broken = {src / item.name for item in found if isinstance(item, Rejected)}
    paths = [item for item in found if isinstance(item, Path)]
    with_media = {path.with_suffix("") for path in (*paths, *broken) if _extension(path) in MEDIA}
    captions = {path.with_suffix(""): path for path in paths if _extension(path) == "txt"}
    media_of_caption: dict[Path, Path] = {}
    for path in found:
        if not isinstance(path, Path):
            yield path
            continue
        name, stem = str(path.relative_to(src)), path.with_suffix("")
        if _extension(path) == "txt":
            if stem not in with_media:
                yield Rejected(name, "caption without media")
        elif _extension(path) not in MEDIA:
            # Tools leave a .json beside a medium and its caption: no mistake, and not needed.
            if _extension(path) in LOOKS_LIKE_TABLE and stem not in captions:
                yield Rejected(name, "table not read", f"wanted it as {TABLES[0]} or {TABLES[2]}, or as SRC itself")
            elif not (path.suffix == ".json" and stem in captions):
                yield Rejected(name, "unknown extension")
        elif stem not in captions:
            wanted = f"{stem.relative_to(src)}.txt"
            yield Rejected(name, "no caption", f"wanted {wanted}" + ": a broken link" * (src / wanted in broken))
        elif stem in media_of_caption:
            yield Rejected(name, "duplicate key", f"{media_of_caption[stem].name} has the same caption file")
        else:
            media_of_caption[stem] = path
            yield file_on_disk(name, path, captions[stem].read_bytes())


def _read_listed_folder(src: Path, table: Path) -> Iterator[Found]:
    """Read the table of a folder, and then reject the media in the folder that the table does not list."""
    listed: set[Path] = set()
    yield from read_table(table, listed)
    for path in walk(src):
        if not isinstance(path, Path):
            yield path
        elif _extension(path) in MEDIA and path.resolve() not in listed:
            yield Rejected(str(path.relative_to(src)), "no caption", f"not listed in {table.name}")


def _read_line_to_line(src: Path) -> Iterator[Found]:
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
        yield listed_file(media, src / media, prompt)


def _beside_shards(src: Path) -> Iterator[Found]:
    """Yield the media that lie loose in a folder of shards: they are no part of it, and are named."""
    for path in sorted(src.iterdir()):
        if _extension(path) in MEDIA:
            yield Rejected(
                printable(path.name), "loose file beside shards", "a folder with .tar files is read as shards"
            )


def _read_shards(tars: list[Path]) -> Iterator[Found]:
    """Read the captioned media of shards, and before those of each shard what of it cannot be used."""
    for tar in tars:
        members, rejected, system_files = captioned_members(tar)
        yield from (Rejected(f"{tar.name}:{item.name}", item.reason, item.detail) for item in rejected)
        yield from (Passed(tar.name, SYSTEM_FILE) for _ in range(system_files))
        written = tar.stat().st_mtime_ns
        for member in members:
            name, stem = f"{tar.name}:{member.medium.name}", Path(member.key).name
            stamp = f"{member.medium.size} bytes at {member.medium.offset} of {written}"
            yield CaptionedFile(name, stem, partial(_read_member, tar, member), member.caption, stamp=stamp)


def _read_member(tar: Path, member: CaptionedMember) -> bytes:
    """Return the media bytes of a member of a tar. Raises DataError."""
    try:
        with open(tar, "rb") as file:
            return member.medium.read(file)
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from None


def _extension(path: Path) -> str:
    """Return the extension of a file's name, in lower case and without the dot."""
    return path.suffix[1:].lower()
