"""The reading of a shard from end to end, to find its samples."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from ...errors import DataError
from ..media.decode import Format, MediaInfo
from ..shards.index_file import MEDIA, Rejected, Sample, is_unsafe
from .captions import MAX_BYTES, clean_caption
from .sandbox import probe
from .system_files import is_system_file
from .tar import Member, read_members

SIDECARS = ("txt", "json")
"""Extensions of the members beside a media member: its caption, and a tool's notes."""
MAX_MEMBER = 1 << 30
"""Most bytes of one member, 1 GiB, because members are read into memory whole."""


@dataclass(frozen=True, slots=True)
class CaptionedMember:
    """A media member of a shard with its caption, not yet decoded."""

    key: str
    """Their common name, without extension."""
    medium: Member
    text: Member
    """The member with the caption."""
    caption: str
    """The caption, cleaned."""


class Scan(NamedTuple):
    """What `index_shard` finds in a shard."""

    samples: list[Sample]
    """Its samples, in the order of the tar."""
    rejected: list[Rejected]
    """What of it cannot be used."""
    system_files: int
    """How many of its members an operating system has left there."""


def index_shard(tar: Path, known: Mapping[str, MediaInfo] | None = None) -> Scan:
    """Find the samples of a tar: a media member with an extension of MEDIA and a caption `{key}.txt` for each.

    Nothing is extracted. Rejected is what `captioned_members` rejects, and media that does not decode, or that is of
    another format than its name says.

    Args:
        tar: path of the shard.
        known: what media was found to hold earlier, by key; only media that is not listed is decoded.

    Raises:
        DataError: the tar itself is damaged.
    """
    members, rejected, system_files = captioned_members(tar)
    samples: list[Sample] = []
    with open(tar, "rb") as file:
        for member in members:
            name = member.medium.name
            data = member.medium.read(file)

            # The content decides what a file is; a name that says otherwise is a mistake or a trick.
            try:
                info = (known or {}).get(member.key) or probe(data)
            except DataError as error:
                rejected.append(Rejected(name, "undecodable", str(error)))
                continue
            if info.format != announced_format(name):
                rejected.append(Rejected(name, "name and content differ", f"the content is {info.format}"))
                continue
            samples.append(_sample(tar, member, data, info))
    return Scan(samples, rejected, system_files)


def captioned_members(tar: Path) -> tuple[list[CaptionedMember], list[Rejected], int]:
    """Find the captioned media members of a tar by its headers and captions, without decoding any.

    Rejected are:

    1. links, devices, sparse files and unsafe names, and members of unknown extension or beyond MAX_MEMBER bytes;
    2. keys without exactly one media member and a caption;
    3. captions that `clean_caption` refuses.

    Returns:
        The members in the order of the tar, what cannot be used, and the number of files of an operating system.

    Raises:
        DataError: the tar itself is damaged.
    """
    members, rejected, system_files = _usable_members(tar)
    found: list[CaptionedMember] = []
    with open(tar, "rb") as file:
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

            try:
                if text.size > MAX_BYTES:
                    raise DataError(f"the caption has {text.size} bytes, at most {MAX_BYTES} are read")
                caption = clean_caption(text.read(file))
            except DataError as error:
                rejected.append(Rejected(text.name, "unusable caption", str(error)))
                continue
            found.append(CaptionedMember(key, medium, text, caption))
    return found, rejected, system_files


def announced_format(name: str) -> Format:
    """Return the format that the extension of a media member's name announces."""
    return cast(Format, MEDIA[name.rpartition(".")[2].lower()])


def _sample(tar: Path, member: CaptionedMember, data: bytes, info: MediaInfo) -> Sample:
    """Return the line of the index for a member whose media bytes are `data`."""
    medium, text = member.medium, member.text
    return Sample(
        shard=str(tar),
        key=member.key,
        kind=info.kind,
        member=medium.name,
        offset=medium.offset,
        size=medium.size,
        sha256=hashlib.sha256(data).hexdigest(),
        caption=member.caption,
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


def _usable_members(tar: Path) -> tuple[dict[str, dict[str, Member]], list[Rejected], int]:
    """Return the usable members of a tar by key and then by extension in lower case, the others, and system files.

    A key ends at the last dot of a name: `v1.0_clip.mp4` has the key `v1.0_clip`.
    """
    members: dict[str, dict[str, Member]] = {}
    rejected: list[Rejected] = []
    system_files = 0
    for member in read_members(tar):
        key, _, extension = member.name.rpartition(".")
        by_extension = members.get(key, {})
        if not is_unsafe(member.name) and is_system_file(member.name):
            system_files += member.kind != "folder"
        elif reason := _fault(member, extension.lower()):
            rejected.append(Rejected(member.name, reason))
        elif member.kind == "folder":
            continue
        elif extension.lower() in by_extension:
            rejected.append(Rejected(member.name, "duplicate key"))
        else:
            members.setdefault(key, by_extension)[extension.lower()] = member
    return members, rejected, system_files


def _fault(member: Member, extension: str) -> str | None:
    """Return why a member cannot be used, by its header alone; None for usable members and for safe folders."""
    if is_unsafe(member.name):
        return "unsafe name"
    if member.kind == "folder":
        return None
    if member.kind != "file":
        return "link, device or sparse file"
    if extension not in (*MEDIA, *SIDECARS):
        return "unknown extension"
    if member.size > MAX_MEMBER:
        return f"larger than {MAX_MEMBER} bytes"
    return None
