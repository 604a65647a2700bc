"""Captioned media into shards: every file is decoded in full once, here, so that training meets no surprise.

Media bytes are kept as they are. Only GIFs change: a shard holds no GIF (its decoders are few and slow), so an animated
one becomes an H.264 mp4 with bit-exact frames and the same times, and one of a single frame becomes a png.
What cannot train is left out, counted, and listed with its reason in `rejected.jsonl`.
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
    """What became of the input."""

    videos: int
    images: int
    converted: tuple[str, ...]
    """Names of the GIFs that were stored in another format."""
    rejected: tuple[Rejected, ...]
    shards: tuple[Path, ...]

    @property
    def reasons(self) -> Counter[str]:
        """How many were rejected for each reason."""
        return Counter(r.reason for r in self.rejected)


def pack(
    src: str | Path,
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> PackReport:
    """Write the captioned media of `src` as shards with indices into the folder `out`.

    src: see `lavie.data.prepare.sources`. Videos that hold no clip of `num_frames` frames at `fps`, or at every
    `frame_stride`-th frame, are rejected. Raises DataError if src is no source, if out holds shards already, or if
    nothing is left.
    """
    if not Path(src).exists():
        raise DataError(f"SRC {src}: no such file or folder")
    return pack_files(
        read_source(Path(src)), out, num_frames=num_frames, fps=fps, frame_stride=frame_stride, shard_bytes=shard_bytes
    )


def pack_files(
    entries: Iterable[CaptionedFile | Rejected],
    out: str | Path,
    *,
    num_frames: int,
    fps: float | None = None,
    frame_stride: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> PackReport:
    """`pack` for entries from anywhere."""
    out = Path(out)
    if any(out.glob("*.tar")):
        raise DataError(f"OUT {out}: holds shards already; give another folder, or delete them first")
    counts: Counter[str] = Counter()
    converted: list[str] = []
    rejected: list[Rejected] = []
    with ShardWriter(out, shard_bytes) as writer:
        for number, entry in enumerate(entries):
            if isinstance(entry, Rejected):
                rejected.append(entry)
                continue
            try:
                caption, data, info = _check(entry, num_frames, fps, frame_stride)
            except _Unfit as fault:
                rejected.append(Rejected(entry.name, *fault.args))
                continue
            if info.format == "gif":
                data = run_sandboxed(convert_gif, data, info.frames, info.fps, info.vfr)
                info = probe(data)
                converted.append(entry.name)
            key = f"{number:09d}-{re.sub('[^A-Za-z0-9_-]+', '_', entry.stem)[:60]}"
            writer.add(key, data, info, caption, {"original": entry.name})
            counts[info.kind] += 1
    if rejected:
        lines = [json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejected]
        (out / "rejected.jsonl").write_text("".join(lines), encoding="utf-8")
    if not counts:
        if not rejected:
            raise DataError("nothing to pack: SRC is empty; wanted videos and images with captions, a table, or shards")
        first = f"{rejected[0].name}: {rejected[0].reason}. {rejected[0].detail}"
        raise DataError(f"nothing to pack: no entry can train, {len(rejected)} rejected; first: {first}")
    return PackReport(counts["video"], counts["image"], tuple(converted), tuple(rejected), tuple(writer.shards))


class _Unfit(Exception):
    """(reason, detail)"""


def _check(
    entry: CaptionedFile, num_frames: int, fps: float | None, frame_stride: int | None
) -> tuple[str, bytes, MediaInfo]:
    """The entry's clean caption, its bytes and what they hold; `_Unfit` if it cannot train."""
    try:
        caption = clean_caption(entry.caption)
    except DataError as error:
        raise _Unfit("unusable caption", str(error)) from None
    try:
        data = entry.load()
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
