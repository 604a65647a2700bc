"""The packing of captioned media into shards.

Every file is decoded in full here, once, so that training meets no surprise. Media bytes are kept as they are, except
those of GIFs (see `gif`). What cannot train is left out, counted, and listed with its reason in `rejected.jsonl`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..media.clips import clip_indices
from ..media.decode import MediaInfo, frame_times
from ..shards.index_file import Rejected
from .captions import clean_caption
from .gif import convert_gif
from .sandbox import probe, run_sandboxed
from .sources import CaptionedFile, read_source
from .writer import SHARD_BYTES, ShardWriter


@dataclass(frozen=True)
class PackReport:
    """The result of packing one source."""

    videos: int
    """Number of videos packed."""
    images: int
    """Number of images packed."""
    converted: tuple[str, ...]
    """Names of the GIFs that were stored as mp4 or png."""
    rejected: tuple[Rejected, ...]
    """Files that were left out, in the order of the source."""
    shards: tuple[Path, ...]
    """Paths of the shards, in order."""

    @property
    def reasons(self) -> Counter[str]:
        """The number of rejected files by reason."""
        return Counter(item.reason for item in self.rejected)


def pack(
    src: str | Path,
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> PackReport:
    """Write the captioned media of a folder, table or set of shards as shards with indices.

    Args:
        src: the source, in one of the shapes of `lavie.data.prepare.sources`.
        out: the folder for the shards, made if need be.
        num_frames: frames of a training clip. Videos that hold no clip of so many frames are rejected.
        fps: frames per second of a training clip; either this or the next is given.
        frame_stride: a training clip takes every so many-th frame.
        shard_bytes: size in bytes at which a shard is closed.

    Raises:
        DataError: `src` is no source, `out` holds shards already, or nothing is left to pack.
    """
    if not Path(src).exists():
        raise DataError(f"SRC {src}: no such file or folder")
    return pack_files(
        read_source(Path(src)), out, num_frames=num_frames, fps=fps, frame_stride=frame_stride, shard_bytes=shard_bytes
    )


def pack_files(
    files: Iterable[CaptionedFile | Rejected],
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> PackReport:
    """Write captioned files, wherever they come from, as `pack` writes those of a source.

    Args:
        files: the files in the order in which they are packed. Those that are rejected already join the report.
        out: as for `pack`, like the other arguments.
    """
    out = Path(out)
    if any(out.glob("*.tar")):
        raise DataError(f"OUT {out}: holds shards already; give another folder, or delete them first")

    counts: Counter[str] = Counter()
    converted: list[str] = []
    rejected: list[Rejected] = []
    with ShardWriter(out, shard_bytes) as writer:
        for number, file in enumerate(files):
            if isinstance(file, Rejected):
                rejected.append(file)
                continue
            try:
                caption, data, info = _checked(file, num_frames, fps, frame_stride)
            except _Unfit as unfit:
                rejected.append(Rejected(file.name, unfit.reason, unfit.detail))
                continue
            if info.format == "gif":
                data = run_sandboxed(convert_gif, data, info.frames, info.fps, info.vfr)
                info = probe(data)
                converted.append(file.name)
            # The number makes keys unique; the stem, reduced to harmless characters, lets a person find the file.
            key = f"{number:09d}-{re.sub('[^A-Za-z0-9_-]+', '_', file.stem)[:60]}"
            writer.add(key, data, info, caption, {"original": file.name})
            counts[info.kind] += 1

    if rejected:
        lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected]
        (out / "rejected.jsonl").write_text("".join(lines), encoding="utf-8")
    if not counts:
        raise DataError(_nothing_to_pack(rejected))
    return PackReport(counts["video"], counts["image"], tuple(converted), tuple(rejected), tuple(writer.shards))


def _nothing_to_pack(rejected: list[Rejected]) -> str:
    """Return the message for a source without a usable file."""
    if not rejected:
        return "nothing to pack: SRC is empty; wanted videos and images with captions, a table, or shards"
    first = f"{rejected[0].name}: {rejected[0].reason}. {rejected[0].detail}"
    return f"nothing to pack: no entry can train, {len(rejected)} rejected; first: {first}"


class _Unfit(Exception):
    """A file that cannot train."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def _checked(
    file: CaptionedFile, num_frames: int, fps: float | None, frame_stride: int | None
) -> tuple[str, bytes, MediaInfo]:
    """Return a file's clean caption, its bytes and what they hold; raise `_Unfit` if it cannot train."""
    try:
        caption = clean_caption(file.caption)
    except DataError as error:
        raise _Unfit("unusable caption", str(error)) from None

    # Only videos of variable frame rate need their own timestamps, which cost a call of the sandbox.
    try:
        data = file.load()
        info = probe(data)
        if info.kind == "image" or (info.format == "gif" and info.frames == 1):
            return caption, data, info
        if info.vfr or info.fps is None:
            times = run_sandboxed(frame_times, data, info.frames)
        else:
            times = np.arange(info.frames) / info.fps
    except DataError as error:
        raise _Unfit("undecodable", str(error)) from None

    try:
        clip_indices(times, num_frames, fps=fps, frame_stride=frame_stride, u=0)
    except DataError as error:
        raise _Unfit("too short", str(error)) from None
    return caption, data, info
