"""The index of a dataset: where each sample lies in its shard, what it holds, and the hash of its bytes.

A dataset is a folder of shards `00000.tar ...`; beside each lies `00000.index.jsonl`: a header line with the size of
the tar and the number of samples, then one line per sample. Training reads the indices once and then single members by
offset. Indices are made at packing, by decoding every file in full.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Literal

from ..errors import DataError
from .captions import clean_caption
from .decode import MediaInfo, probe

MEDIA = ("mp4", "webm", "jpg", "png")
"""Extensions of media members. mp4 stands for the whole family with mov, webm for Matroska."""
SIDECARS = ("txt", "json")
MAX_MEMBER = 1 << 30
"""Bytes of one member: they are read into memory whole."""


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
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that cannot train: left out, but counted and named."""

    name: str
    reason: str
    """The class of the fault, the same words for each of its kind."""
    detail: str = ""


class Index(Sequence[Sample]):
    """All samples of a dataset, ordered by the given paths, then by shard name, then by place in the shard."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = tuple(samples)
        self.videos = tuple(s for s in self._samples if s.kind == "video")
        self.images = tuple(s for s in self._samples if s.kind == "image")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i):
        return self._samples[i]


def load_index(paths: Sequence[str]) -> Index:
    """The index of folders of shards or single tars. Raises DataError if one is missing or does not fit its shard."""
    samples: list[Sample] = []
    for path in map(Path, paths):
        if path.is_dir():
            tars = sorted(path.glob("*.tar"))
            if not tars:
                below = sorted({t.parent.name for t in path.glob("*/*.tar")})
                hint = f"; there are some in its folders {', '.join(below)}" if below else ""
                raise DataError(f"{path}: no .tar shards in this folder{hint}. `lavie data pack SRC {path}` makes them")
        elif path.is_file() and path.suffix == ".tar":
            tars = [path]
        else:
            what = "no folder of shards and no .tar file" if path.exists() else "no such file or folder"
            raise DataError(f"{path}: {what}. Correct data.train or data.validation; `lavie data pack` makes shards")
        for tar in tars:
            samples += _read_index(tar)
    return Index(samples)


def write_index(tar: Path, samples: Sequence[Sample]) -> Path:
    """Write the index of a shard beside it, whole or not at all, and return its path."""
    header = {"tar_bytes": tar.stat().st_size, "samples": len(samples)}
    lines = [header, *({k: v for k, v in asdict(s).items() if k != "shard"} for s in samples)]
    path, partial = _index_path(tar), tar.with_suffix(".index.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def index_shard(tar: Path, known: Mapping[str, MediaInfo] | None = None) -> tuple[list[Sample], list[Rejected]]:
    """The samples of a tar of `{key}.mp4|.webm|.jpg|.png` and `{key}.txt`, and what of it cannot be used.

    Nothing is extracted. Links, devices, sparse files and unsafe names are rejected, as are members of unknown
    extension, samples without exactly one media file and a caption, and media that does not decode. `known` gives what
    was already probed, by key. Raises DataError if the tar itself is damaged.
    """
    members, rejected = _members(tar)
    samples: list[Sample] = []
    with open(tar, "rb") as file:

        def read(member: tarfile.TarInfo) -> bytes:
            file.seek(member.offset_data)
            return file.read(member.size)

        for key, parts in members.items():
            media = [parts[e] for e in MEDIA if e in parts]
            if len(media) != 1:
                what = "several media members" if media else "caption without media"
                rejected.append(Rejected(key, what, ", ".join(m.name for m in parts.values())))
            elif "txt" not in parts:
                rejected.append(Rejected(media[0].name, "no caption", f"wanted a member {key}.txt"))
            else:
                data = read(media[0])
                try:
                    caption = clean_caption(read(parts["txt"]))
                except DataError as error:
                    rejected.append(Rejected(parts["txt"].name, "unusable caption", str(error)))
                    continue
                try:
                    info = (known or {}).get(key) or probe(data)
                except DataError as error:
                    rejected.append(Rejected(media[0].name, "undecodable", str(error)))
                    continue
                if info.format != media[0].name.rpartition(".")[2]:
                    rejected.append(Rejected(media[0].name, "name and content differ", f"the content is {info.format}"))
                    continue
                samples.append(_sample(tar, key, media[0], data, caption, info))
    return samples, rejected


def _sample(tar: Path, key: str, member: tarfile.TarInfo, data: bytes, caption: str, info: MediaInfo) -> Sample:
    return Sample(
        shard=str(tar),
        key=key,
        kind=info.kind,
        member=member.name,
        offset=member.offset_data,
        size=member.size,
        sha256=hashlib.sha256(data).hexdigest(),
        caption=caption,
        frames=info.frames,
        fps=info.fps,
        vfr=info.vfr,
        width=info.width,
        height=info.height,
        duration=info.duration,
    )


def _members(tar: Path) -> tuple[dict[str, dict[str, tarfile.TarInfo]], list[Rejected]]:
    """The usable members by key and extension. Keys end at the last dot: `v1.0_clip.mp4` has the key `v1.0_clip`."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    rejected: list[Rejected] = []
    end = 0
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                end = member.offset_data + (member.size if member.isreg() else 0)
                key, _, extension = member.name.rpartition(".")
                parts = members.get(key, {})
                if reason := _fault(member, extension):
                    rejected.append(Rejected(member.name, reason))
                elif member.isdir():
                    continue
                elif extension in parts:
                    rejected.append(Rejected(member.name, "duplicate key"))
                else:
                    members.setdefault(key, parts)[extension] = member
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"shard {tar}: cannot be read: {error}") from None
    size = tar.stat().st_size
    if size < end + 2 * tarfile.BLOCKSIZE:
        raise DataError(f"shard {tar}: cut short: no end mark within its {size} bytes. Pack or copy it anew")
    return members, rejected


def _fault(member: tarfile.TarInfo, extension: str) -> str | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not member.name.isprintable():
        return "unsafe name"
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return "link, device or sparse file"
    if extension not in MEDIA + SIDECARS:
        return "unknown extension"
    if member.size > MAX_MEMBER:
        return f"larger than {MAX_MEMBER} bytes"
    return None


def _index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.jsonl")


def _read_index(tar: Path) -> list[Sample]:
    path = _index_path(tar)
    remedy = "Pack its source again with `lavie data pack`"
    if not path.is_file():
        raise DataError(f"shard {tar}: no index {path.name} beside it. {remedy}")
    names = {f.name for f in fields(Sample)} - {"shard"}
    try:
        header, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        expected_bytes, expected_samples = header["tar_bytes"], header["samples"]
        wrong = next((number for number, line in enumerate(lines, start=2) if set(line) != names), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"index {path}: cannot be read: {error!r}. {remedy}") from None
    if wrong is not None:
        raise DataError(f"index {path}, line {wrong}: wanted the keys {', '.join(sorted(names))}. {remedy}")
    if len(lines) != expected_samples:
        raise DataError(f"index {path}: {len(lines)} samples, its header says {expected_samples}. {remedy}")
    size = tar.stat().st_size
    if size != expected_bytes:
        raise DataError(
            f"shard {tar}: {size} bytes, its index was made for {expected_bytes}: cut short or replaced. {remedy}"
        )
    return [Sample(shard=str(tar), **line) for line in lines]
