"""The index of one shard, a file: where each sample lies in the shard, what it holds, and the hash of its bytes.

Beside a shard `00000.tar` lies `00000.index.jsonl`: a header line, then one line for each sample. Indices are made by
decoding every file in full: at packing, or by `lavie data index` for shards from elsewhere, which are never written to.
An index may lie in a folder of its own; then its header names the tar.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ...errors import DataError
from ...files import replacing

MEDIA = {
    **{"mp4": "mp4", "mov": "mp4", "webm": "webm", "mkv": "webm", "avi": "avi", "gif": "gif"},
    **{"jpg": "jpg", "jpeg": "jpg", "png": "png"},
}
"""The extensions of media, in lower case, and the format that each announces; upper case is taken too. mp4 stands for
the whole family with mov, webm for Matroska."""
SUFFIX = ".index.jsonl"
"""What an index has in its name in place of `.tar`."""
FORMAT = 3
"""The version of the file format, and of what is read from media: it rises when sizes or frames come out otherwise. An
index of another one is refused, and is to be made anew."""
ENDS = 1 << 16
"""The bytes at either end of a tar that its fingerprint covers."""
REMOTE_REMEDY = (
    "Indices are made where every byte can be read quickly: run `lavie data index` on a copy of the shards on a disk, "
    "and upload the .index.jsonl files beside them"
)
"""What mends a remote index, as the last sentence of an error's message."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip or image of a shard, with its caption."""

    shard: str
    """The path or URL of the tar."""
    key: str
    """The name of the sample, shared by its members: the member's name without its extension."""
    kind: Literal["video", "image"]
    member: str
    """The name of the media member in the tar."""
    offset: int
    """Where the bytes of the media member begin in the tar."""
    size: int
    """How many bytes the media member has."""
    sha256: str
    """The SHA-256 of the media member's bytes, 64 hexadecimal digits."""
    caption: str
    """The caption, cleaned: one line of text."""
    frames: int
    """1 for an image."""
    fps: float | None
    """Average frames per second; None for an image."""
    vfr: bool
    """Whether the frame rate varies, beyond the rounding of the file's clock."""
    width: int
    """Pixels, upright (after rotation)."""
    height: int
    """Pixels, upright (after rotation)."""
    duration: float
    """Seconds; 0 for an image."""
    codec: str
    """FFmpeg's name of the codec, as h264 or vp9; for an image jpg, png or gif."""
    caption_offset: int
    """Where the caption, as it was before cleaning, begins in the tar."""
    caption_size: int
    """How many bytes the caption had before cleaning."""
    notes: tuple[str, ...] = ()
    """What about the file had to be interpreted (see `MediaInfo.notes`). An index may leave them out; tables do."""

    @property
    def caption_sha256(self) -> str:
        """The SHA-256 of the clean caption, the same for samples that share it: 64 hexadecimal digits."""
        return hashlib.sha256(self.caption.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A member or sample of a shard that cannot train: left out of the index, but counted and named in its header."""

    name: str
    """The name of the member, or the key of the sample."""
    reason: str
    """The class of the fault: the same words for all faults of a class."""
    detail: str = ""
    """What exactly is wrong with this one."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an index."""

    format: int
    """FORMAT."""
    tar: str | None
    """The absolute path of the tar; None where the tar lies beside the index."""
    tar_bytes: int
    """The size of the tar."""
    ends: str
    """The `fingerprint` of the tar."""
    videos: int
    """How many of the samples are videos."""
    images: int
    """How many of the samples are images."""
    rejected: tuple[Rejected, ...]
    """What was left out of the index."""
    system_files: int = 0
    """How many members are files of an operating system, which nobody misses."""


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write a list of what is left out, one JSON line for each; remove an earlier list if there is none."""
    if rejected:
        lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def write_index(
    tar: Path,
    samples: Sequence[Sample],
    rejected: Sequence[Rejected] = (),
    system_files: int = 0,
    *,
    out: Path | None = None,
) -> Path:
    """Write the index of a shard, whole or not at all, and return its path.

    Args:
        tar: the shard.
        samples: its samples, in order.
        rejected: what of the shard is no sample.
        system_files: how many of its members an operating system has left there.
        out: the folder for the index; None: beside the shard.
    """
    # The header lets a reader tell whether the tar has changed since; a tar elsewhere is found by its full path.
    videos = sum(sample.kind == "video" for sample in samples)
    header = Header(
        format=FORMAT,
        tar=None if out is None else str(tar.resolve()),
        tar_bytes=tar.stat().st_size,
        ends=fingerprint(tar),
        videos=videos,
        images=len(samples) - videos,
        rejected=tuple(rejected),
        system_files=system_files,
    )

    # The lines do not name the shard, which may move together with its index.
    path = index_path(tar, out)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(header), ensure_ascii=False) + "\n")
        for sample in samples:
            line = {name: value for name, value in asdict(sample).items() if name != "shard"}
            line["caption_sha256"] = sample.caption_sha256
            if not sample.notes:
                del line["notes"]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def index_path(tar: Path, out: Path | None = None) -> Path:
    """Return where the index of a shard lies: beside the shard, or in the folder `out`."""
    return (out or tar.parent) / (tar.name.removesuffix(".tar") + SUFFIX)


def fingerprint(tar: Path) -> str:
    """Return the SHA-256 of the first and the last ENDS bytes of a tar, in hexadecimal digits."""
    with open(tar, "rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
        return hashlib.sha256(first + file.read(ENDS)).hexdigest()


def read_header(path: Path, url: str | None = None) -> Header:
    """Return the header of an index.

    Args:
        path: the index, or the local copy of a remote one.
        url: the URL that a remote index was fetched from, for the message of an error.

    Raises:
        DataError: the header cannot be read, or is of another format.
    """
    try:
        with open(path, encoding="utf-8") as file:
            line = json.loads(file.readline())
        if (found := line.get("format", 1)) != FORMAT:
            raise DataError(
                f"index {url or path}: of format {found}, wanted {FORMAT}: another version made it, which reads the "
                f"sizes and frames of some files otherwise. {remedy(path, url)}"
            )
        rejected = tuple(Rejected(**r) for r in line.pop("rejected"))
        header = Header(**line, rejected=rejected)
        counts = (header.tar_bytes, header.videos, header.images, header.system_files)
        if any(type(n) is not int or n < 0 for n in counts) or not isinstance(header.tar, str | None):
            raise ValueError(f"tar_bytes, videos, images, system_files: wanted counts, got {counts}")
        return header
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"index {url or path}: cannot be read: {error!r}. {remedy(path, url)}") from None


def read_index(path: Path, header: Header, url: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the samples of an index, checked: for each, the fields of Sample without `shard`.

    Args:
        path: the index, or the local copy of a remote one.
        header: its header.
        url: the URL that a remote index was fetched from, for the message of an error.

    Raises:
        DataError: a line is damaged or impossible, or the number of lines is not that of the header.
    """
    name, mend = url or path, remedy(path, url)
    names = {field.name for field in fields(Sample)} - {"shard"} | {"caption_sha256"}
    counts = {"video": 0, "image": 0}
    number = 1

    # A line that cannot be true is an error here, before a trainer seeks to its offset hours later.
    try:
        with open(path, encoding="utf-8") as file:
            file.readline()
            for text in file:
                number += 1
                line = json.loads(text)
                if not isinstance(line, dict) or set(line) | {"notes"} != names:
                    raise ValueError(f"wanted the keys {', '.join(sorted(names))}")
                if fault := _fault(line, header.tar_bytes):
                    raise ValueError(fault)
                counts[line["kind"]] += 1
                del line["caption_sha256"]
                line["notes"] = tuple(line.get("notes", ()))
                yield line
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"index {name}, line {number}: {error}. {mend}") from None
    if (counts["video"], counts["image"]) != (header.videos, header.images):
        raise DataError(
            f"index {name}: {counts['video']} videos and {counts['image']} images, its header says {header.videos} and "
            f"{header.images}. {mend}"
        )


def remedy(path: Path, url: str | None = None) -> str:
    """Return what mends the index at `path`, or the one that was fetched from `url`, for the message of an error."""
    return REMOTE_REMEDY if url else f"`lavie data index {path.parent}` makes it anew"


def is_unsafe(name: str) -> bool:
    """Return whether a key or a member's name could mean a place outside its shard, or would garble a log's line."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()


def _fault(line: Mapping[str, Any], tar_bytes: int) -> str | None:
    """Return what makes a line of an index impossible; None if nothing does.

    Args:
        line: the fields of a sample and `caption_sha256`, with the types that JSON gave them.
        tar_bytes: the size of the tar, inside which everything must lie.
    """
    key, caption, member, fps = line["key"], line["caption"], line["member"], line["fps"]

    # Texts come first: the later checks take them apart.
    if not all(isinstance(text, str) for text in (key, caption, member, line["codec"])):
        return "key, member, caption and codec: wanted text"
    if hashlib.sha256(caption.encode()).hexdigest() != line["caption_sha256"]:
        return "the caption differs from its SHA-256"
    if is_unsafe(key):
        return f"the key {key!r}: an unsafe name"
    if not member.startswith(f"{key}.") or member.removeprefix(f"{key}.").lower() not in MEDIA:
        return f"member {member!r}: wanted the key {key!r} and one of {', '.join(MEDIA)}"
    if line["kind"] not in ("video", "image") or (line["kind"] == "video") != isinstance(fps, int | float):
        return f"kind {line['kind']!r} with fps {fps!r}"

    # Offsets and sizes must be counts, for `pread` would take some other numbers too.
    numbers = {n: line[n] for n in ("offset", "size", "caption_offset", "caption_size", "frames", "width", "height")}
    if any(type(n) is not int or n < 0 for n in numbers.values()):
        return f"wanted counts, got {numbers}"
    if type(line["vfr"]) is not bool or not isinstance(line["duration"], int | float):
        return f"vfr {line['vfr']!r}, duration {line['duration']!r}: wanted true or false, and seconds"
    for offset, size in (("offset", "size"), ("caption_offset", "caption_size")):
        if line[offset] + line[size] > tar_bytes:
            return f"{offset} {line[offset]} and {size} {line[size]} do not lie inside the tar of {tar_bytes} bytes"
    notes = line.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return f"notes {notes!r}: wanted a list of texts"
    if len(bytes.fromhex(line["sha256"])) != 32:
        return "sha256: wanted 64 hexadecimal digits"
    return None
