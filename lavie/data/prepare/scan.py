"""The samples of a shard, found by reading its tar from end to end."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError
from ..media.decode import MediaInfo
from ..shards.index_file import MEDIA, Rejected, Sample, is_unsafe
from .captions import MAX_BYTES, clean_caption
from .sandbox import probe
from .tar import Member, read_members

SIDECARS = ("txt", "json")


MAX_MEMBER = 1 << 30
"""Bytes of one member: they are read into memory whole."""


def index_shard(tar: Path, known: Mapping[str, MediaInfo] | None = None) -> tuple[list[Sample], list[Rejected]]:
    """The samples of a tar of `{key}.mp4|.webm|.jpg|.png` and `{key}.txt`, and what of it cannot be used.

    Nothing is extracted. Links, devices, sparse files and unsafe names are rejected, as are members of unknown
    extension, samples without exactly one media file and a caption, and media that does not decode. `known` gives what
    was already probed, by key. Raises DataError if the tar itself is damaged.
    """
    members, rejected = _members(tar)
    samples: list[Sample] = []
    with open(tar, "rb") as file:

        def read(member: Member) -> bytes:
            file.seek(member.offset)
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
                    if parts["txt"].size > MAX_BYTES:
                        raise DataError(f"the caption has {parts['txt'].size} bytes, at most {MAX_BYTES} are read")
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
                samples.append(_sample(tar, key, media[0], parts["txt"], data, caption, info))
    return samples, rejected


def _sample(tar: Path, key: str, member: Member, text: Member, data: bytes, caption: str, info: MediaInfo) -> Sample:
    return Sample(
        shard=str(tar),
        key=key,
        kind=info.kind,
        member=member.name,
        offset=member.offset,
        size=member.size,
        sha256=hashlib.sha256(data).hexdigest(),
        caption=caption,
        frames=info.frames,
        fps=info.fps,
        vfr=info.vfr,
        width=info.width,
        height=info.height,
        duration=info.duration,
        codec=info.codec,
        caption_offset=text.offset,
        caption_size=text.size,
    )


def _members(tar: Path) -> tuple[dict[str, dict[str, Member]], list[Rejected]]:
    """The usable members by key and extension. Keys end at the last dot: `v1.0_clip.mp4` has the key `v1.0_clip`."""
    members: dict[str, dict[str, Member]] = {}
    rejected: list[Rejected] = []
    for member in read_members(tar):
        key, _, extension = member.name.rpartition(".")
        parts = members.get(key, {})
        if reason := _fault(member, extension):
            rejected.append(Rejected(member.name, reason))
        elif member.kind == "folder":
            continue
        elif extension in parts:
            rejected.append(Rejected(member.name, "duplicate key"))
        else:
            members.setdefault(key, parts)[extension] = member
    return members, rejected


def _fault(member: Member, extension: str) -> str | None:
    if is_unsafe(member.name):
        return "unsafe name"
    if member.kind == "folder":
        return None
    if member.kind != "file":
        return "link, device or sparse file"
    if extension not in MEDIA + SIDECARS:
        return "unknown extension"
    if member.size > MAX_MEMBER:
        return f"larger than {MAX_MEMBER} bytes"
    return None
