"""The reading of a shard from end to end, to find its samples."""

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
"""Extensions of the members beside a media member: its caption, and a tool's notes."""
MAX_MEMBER = 1 << 30
"""Most bytes of one member, 1 GiB, because members are read into memory whole."""


def index_shard(tar: Path, known: Mapping[str, MediaInfo] | None = None) -> tuple[list[Sample], list[Rejected]]:
    """Find the samples of a tar: a media member `{key}.mp4|.webm|.jpg|.png` and a caption `{key}.txt` for each.

    Nothing is extracted. Rejected are:

    1. links, devices, sparse files and unsafe names, and members of unknown extension or beyond MAX_MEMBER bytes;
    2. keys without exactly one media member and a caption;
    3. captions that `clean_caption` refuses;
    4. media that does not decode, or that is of another format than its name says.

    Args:
        tar: path of the shard.
        known: what media was found to hold earlier, by key; only media that is not listed is decoded.

    Returns:
        The samples in the order of the tar, and what cannot be used.

    Raises:
        DataError: the tar itself is damaged.
    """
    members, rejected = _usable_members(tar)
    samples: list[Sample] = []
    with open(tar, "rb") as file:

        def read(member: Member) -> bytes:
            """Return the bytes of a member of the tar."""
            file.seek(member.offset)
            return file.read(member.size)

        for key, by_extension in members.items():
            # A sample has one media member and one caption.
            media = [by_extension[extension] for extension in MEDIA if extension in by_extension]
            if len(media) != 1:
                what = "several media members" if media else "caption without media"
                rejected.append(Rejected(key, what, ", ".join(member.name for member in by_extension.values())))
                continue
            (medium,) = media
            text = by_extension.get("txt")
            if text is None:
                rejected.append(Rejected(medium.name, "no caption", f"wanted a member {key}.txt"))
                continue

            data = read(medium)
            try:
                if text.size > MAX_BYTES:
                    raise DataError(f"the caption has {text.size} bytes, at most {MAX_BYTES} are read")
                caption = clean_caption(read(text))
            except DataError as error:
                rejected.append(Rejected(text.name, "unusable caption", str(error)))
                continue

            # The content decides what a file is; a name that says otherwise is a mistake or a trick.
            try:
                info = (known or {}).get(key) or probe(data)
            except DataError as error:
                rejected.append(Rejected(medium.name, "undecodable", str(error)))
                continue
            if info.format != medium.name.rpartition(".")[2]:
                rejected.append(Rejected(medium.name, "name and content differ", f"the content is {info.format}"))
                continue
            samples.append(_sample(tar, key, medium, text, data, caption, info))
    return samples, rejected


def _sample(tar: Path, key: str, medium: Member, text: Member, data: bytes, caption: str, info: MediaInfo) -> Sample:
    """Return the line of the index for a media member and its caption's member `text`."""
    return Sample(
        shard=str(tar),
        key=key,
        kind=info.kind,
        member=medium.name,
        offset=medium.offset,
        size=medium.size,
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
        notes=info.notes,
    )


def _usable_members(tar: Path) -> tuple[dict[str, dict[str, Member]], list[Rejected]]:
    """Return the usable members of a tar by key and then by extension, and the others.

    A key ends at the last dot of a name: `v1.0_clip.mp4` has the key `v1.0_clip`.
    """
    members: dict[str, dict[str, Member]] = {}
    rejected: list[Rejected] = []
    for member in read_members(tar):
        key, _, extension = member.name.rpartition(".")
        by_extension = members.get(key, {})
        if reason := _fault(member, extension):
            rejected.append(Rejected(member.name, reason))
        elif member.kind == "folder":
            continue
        elif extension in by_extension:
            rejected.append(Rejected(member.name, "duplicate key"))
        else:
            members.setdefault(key, by_extension)[extension] = member
    return members, rejected


def _fault(member: Member, extension: str) -> str | None:
    """Return why a member cannot be used, by its header alone; None for usable members and for safe folders."""
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
