"""The features of a set of clips: which frames are taken, and one row for each clip.

1. The clips of a side are put in an order that the seed gives, and each rank takes every world_size-th of them.
2. A clip that is too short or cannot be read is left out, and named. Where the protocol limits the clips, others take
   their places, so the set is the same for any number of ranks.
3. Rows that an earlier call has made are taken where the clip's bytes, the protocol and the weights are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...distributed import gather_objects, rank, world_size
from ...errors import DataError
from ...seeds import key64, numpy_generator
from ..clip_source import Clip, OpenClip
from ..measured import short_hash
from .extractors import Extractor
from .preprocess import apply_steps
from .protocol import Protocol, Reading
from .rows import Kept, Moved, Row, Rows, rows_of


@dataclass(frozen=True)
class Cut:
    """Some frames of a clip."""

    clip: Clip
    start: int | None
    """The first frame; None where the protocol decides when the length is known."""

    @property
    def name(self) -> str:
        """The clip's name, and its start where a clip may be cut several times."""
        return self.clip.name if self.start is None else f"{self.clip.name}@{self.start}"

    def open(self) -> OpenClip:
        """Read the clip's bytes, as `Clip.open`."""
        return self.clip.open()


def extraction_key(protocol: Protocol, reading: Reading, extractor: Extractor, shuffled: bool) -> str:
    """Return a hash of all that decides a row beside the clip: rows of equal keys may stand in one set."""
    content = {
        "reading": reading.model_dump(mode="json", exclude={"limit"}),
        "num_frames": protocol.num_frames,
        "seed": protocol.seed,
        "extractor": [extractor.name, extractor.sha256],
        "shuffled": shuffled,
    }
    return short_hash(content)


def extract(
    clips: Sequence[Clip],
    protocol: Protocol,
    reading: Reading,
    extractor: Extractor,
    *,
    keep: Path | None = None,
    shuffled: bool = False,
    moved: Moved | None = None,
) -> Rows:
    """Return the features of clips by one side of a protocol, the same on every rank; all ranks call this.

    Args:
        clips: of distinct names.
        protocol: the frames, the seed.
        reading: the side.
        extractor: gives the rows.
        keep: the file of features that earlier calls wrote, and beside which part files are kept.
        shuffled: put each clip's frames in a random order, which only the motion shows.
        moved: told the progress over all clips of this rank.

    Raises:
        DataError: fewer than two clips can be used.
    """
    extractor.check(protocol.num_frames)
    kept = Kept(keep, extraction_key(protocol, reading, extractor, shuffled))
    order = _cuts(clips, protocol, reading)
    limit = len(order) if reading.limit is None else min(reading.limit, len(order))
    make = partial(_row, protocol=protocol, reading=reading, extractor=extractor, shuffled=shuffled)
    rows, taken = Rows(), 0
    while taken < len(order) and len(rows.names) < limit:
        batch = order[taken : taken + limit - len(rows.names)]
        taken += len(batch)
        rows.join(rows_of(batch, make, kept, moved))
    if len(rows.names) < 2:
        first = next(iter(rows.dropped.items()), None)
        why = f"; {len(rows.dropped)} left out, as {first[0]}: {first[1]}" if first else ""
        raise DataError(f"{len(rows.names)} clips can be used: wanted 2 or more{why}")
    return rows.by_name()


def _cuts(clips: Sequence[Clip], protocol: Protocol, reading: Reading) -> list[Cut]:
    """Return what may be cut of the clips, in the order in which it is taken."""
    cuts = [Cut(clip, None) for clip in clips]
    if reading.draw == "windows":
        span = (protocol.num_frames - 1) * reading.stride + 1
        counts: dict[str, int] = {}
        for part in gather_objects({clip.name: _frames(clip) for clip in clips[rank() :: world_size()]}):
            counts |= part
        # A clip without a window stays, so that it is dropped by name.
        cuts = [Cut(clip, start) for clip in clips for start in range(max(1, counts[clip.name] - span + 1))]
    if reading.limit is None:
        return cuts
    order = numpy_generator(protocol.seed, "clips").permutation(len(cuts))
    return [cuts[int(i)] for i in order]


def _frames(clip: Clip) -> int:
    """Return how many frames a clip has, 0 where it cannot be read."""
    try:
        return clip.open().frames
    except (DataError, OSError):
        return 0


def _row(cut: Cut, clip: OpenClip, protocol: Protocol, reading: Reading, extractor: Extractor, shuffled: bool) -> Row:
    """Return the features of a cut. Raises DataError where it cannot be made as the protocol says."""
    start = _start(clip, cut, protocol, reading)
    frames = clip.read(start + np.arange(protocol.num_frames) * reading.stride)
    height, width = reading.source_size or frames.shape[1:3]
    if frames.shape[1:3] != (height, width):
        raise DataError(
            f"frames of {frames.shape[2]} x {frames.shape[1]} pixels: the protocol wants {width} x {height}"
        )
    x = apply_steps(frames, reading.steps)
    if shuffled:
        order = numpy_generator(protocol.seed, f"frames of {cut.name}").permutation(protocol.num_frames)
        x = x[:, torch.from_numpy(order)]
    features = extractor(x[None]).numpy()
    return Row(f"{clip.sha256}@{start}", features[0] if len(features) == 1 else features)


def _start(clip: OpenClip, cut: Cut, protocol: Protocol, reading: Reading) -> int:
    """Return the first frame of a cut. Raises DataError if the clip is too short."""
    span = (protocol.num_frames - 1) * reading.stride + 1
    if clip.frames < span:
        raise DataError(f"{clip.frames} frames: {protocol.num_frames} at stride {reading.stride} span {span}")
    if cut.start is not None:
        return cut.start
    if reading.start == "first":
        return 0
    return key64(protocol.seed, f"start of {cut.name}") % (clip.frames - span + 1)
