"""The index of a shard: where each sample lies in it, what it holds, and the hash of its bytes.

Beside a shard `00000.tar` lies `00000.index.jsonl`: a header line, then one line per sample. Indices are made by
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

MEDIA = ("mp4", "webm", "jpg", "png")
"""Extensions of media members. mp4 stands for the whole family with mov, webm for Matroska."""
SUFFIX = ".index.jsonl"
FORMAT = 2
"""Of an index; one of another format is made anew."""
ENDS = 1 << 16
"""Bytes at either end of a tar that its fingerprint covers."""
REMOTE_REMEDY = (
    "Indices are made where every byte can be read quickly: run `lavie data index` on a copy of the shards on a disk, "
    "and upload the .index.jsonl files beside them"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip or image of a shard."""

    shard: str
    """Path of the tar."""
    key: str
    kind: Literal["video", "image"]
    member: str
    """Name of the media member."""
    offset: int
    size: int
    """Where the bytes of the media member lie inside the tar."""
    sha256: str
    caption: str
    frames: int
    fps: float | None
    """Average; None for images."""
    vfr: bool
    width: int
    height: int
    duration: float
    """Seconds; 0 for images."""
    codec: str
    """As h264 or vp9; for images jpg or png."""
    caption_offset: int
    caption_size: int
    """Where the caption lies inside the tar, as it was before cleaning."""

    @property
    def caption_sha256(self) -> str:
        """Of the clean caption: the same for samples that share it."""
        return hashlib.sha256(self.caption.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that cannot train: left out, but counted and named."""

    name: str
    reason: str
    """The class of the fault, the same words for each of its kind."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an index."""

    format: int
    tar: str | None
    """Path of the tar, absolute; None where the tar lies beside the index."""
    tar_bytes: int
    ends: str
    """`fingerprint` of the tar."""
    videos: int
    images: int
    rejected: tuple[Rejected, ...]
    """What of the shard was left out."""


def write_index(
    tar: Path, samples: Sequence[Sample], rejected: Sequence[Rejected] = (), out: Path | None = None
) -> Path:
    """Write the index of a shard beside it, or into the folder `out`, whole or not at all; its path is returned."""
    videos = sum(s.kind == "video" for s in samples)
    header = Header(
        format=FORMAT,
        tar=None if out is None else str(tar.resolve()),
        tar_bytes=tar.stat().st_size,
        ends=fingerprint(tar),
        videos=videos,
        images=len(samples) - videos,
        rejected=tuple(rejected),
    )
    path = index_path(tar, out)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(header), ensure_ascii=False) + "\n")
        for sample in samples:
            line = {k: v for k, v in asdict(sample).items() if k != "shard"}
            line["caption_sha256"] = sample.caption_sha256
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def index_path(tar: Path, out: Path | None = None) -> Path:
    """Where the index of a shard lies: beside it, or in the folder `out`."""
    return (out or tar.parent) / (tar.name.removesuffix(".tar") + SUFFIX)


def fingerprint(tar: Path) -> str:
    """SHA-256 of the first and the last ENDS bytes of a tar."""
    with open(tar, "rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
        return hashlib.sha256(first + file.read(ENDS)).hexdigest()


def read_header(path: Path, url: str | None = None) -> Header:
    """The header of an index, fetched from `url` if given. Raises DataError if it is none of this format."""
    try:
        with open(path, encoding="utf-8") as file:
            line = json.loads(file.readline())
        if line.get("format") != FORMAT:
            raise ValueError(f"format {line.get('format', 1)}, wanted {FORMAT}")
        rejected = tuple(Rejected(**r) for r in line.pop("rejected"))
        header = Header(**line, rejected=rejected)
        counts = (header.tar_bytes, header.videos, header.images)
        if any(type(n) is not int or n < 0 for n in counts) or not isinstance(header.tar, str | None):
            raise ValueError(f"tar_bytes, videos, images: wanted counts, got {counts}")
        return header
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"index {url or path}: cannot be read: {error!r}. {remedy(path, url)}") from None


def read_index(path: Path, header: Header, url: str | None = None) -> Iterator[dict[str, Any]]:
    """The samples of an index, checked, as the fields of Sample but `shard`. Raises DataError at the first defect."""
    name, mend = url or path, remedy(path, url)
    names = {f.name for f in fields(Sample)} - {"shard"} | {"caption_sha256"}
    found = {"video": 0, "image": 0}
    number = 1
    try:
        with open(path, encoding="utf-8") as file:
            file.readline()
            for text in file:
                number += 1
                line = json.loads(text)
                if not isinstance(line, dict) or set(line) != names:
                    raise ValueError(f"wanted the keys {', '.join(sorted(names))}")
                if fault := _wrong(line, header.tar_bytes):
                    raise ValueError(fault)
                found[line["kind"]] += 1
                del line["caption_sha256"]
                yield line
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"index {name}, line {number}: {error}. {mend}") from None
    if (found["video"], found["image"]) != (header.videos, header.images):
        raise DataError(
            f"index {name}: {found['video']} videos and {found['image']} images, its header says {header.videos} and "
            f"{header.images}. {mend}"
        )


def remedy(path: Path, url: str | None = None) -> str:
    """What mends the index at `path`, or the one that was fetched from `url`."""
    return REMOTE_REMEDY if url else f"`lavie data index {path.parent}` makes it anew"


def is_unsafe(name: str) -> bool:
    """Whether a key or the name of a member could mean a place outside its shard, or garbles a line of a log."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable()


def _wrong(line: Mapping[str, Any], tar_bytes: int) -> str | None:
    """What is impossible about a line of an index."""
    key, caption, member, fps = line["key"], line["caption"], line["member"], line["fps"]
    if not all(isinstance(text, str) for text in (key, caption, member, line["codec"])):
        return "key, member, caption and codec: wanted text"
    if hashlib.sha256(caption.encode()).hexdigest() != line["caption_sha256"]:
        return "the caption differs from its SHA-256"
    if is_unsafe(key):
        return f"the key {key!r}: an unsafe name"
    if member not in (f"{key}.{extension}" for extension in MEDIA):
        return f"member {member!r}: wanted the key {key!r} and one of {', '.join(MEDIA)}"
    if line["kind"] not in ("video", "image") or (line["kind"] == "video") != isinstance(fps, int | float):
        return f"kind {line['kind']!r} with fps {fps!r}"
    numbers = {n: line[n] for n in ("offset", "size", "caption_offset", "caption_size", "frames", "width", "height")}
    if any(type(n) is not int or n < 0 for n in numbers.values()):
        return f"wanted counts, got {numbers}"
    if type(line["vfr"]) is not bool or not isinstance(line["duration"], int | float):
        return f"vfr {line['vfr']!r}, duration {line['duration']!r}: wanted true or false, and seconds"
    for place, size in (("offset", "size"), ("caption_offset", "caption_size")):
        if line[place] + line[size] > tar_bytes:
            return f"{place} {line[place]} and {size} {line[size]} do not lie inside the tar of {tar_bytes} bytes"
    if len(bytes.fromhex(line["sha256"])) != 32:
        return "sha256: wanted 64 hexadecimal digits"
    return None
