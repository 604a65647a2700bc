"""The second half of a check: a few frames of a sample are decoded and judged."""

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import DataError
from ..prepare.sandbox import run_sandboxed
from ..shards.index_file import Sample
from ..shards.member import read_member
from .report import CheckReport, Outcome, member_name
from .thumbnails import thumbnails

LOOKS = 8
"""Number of frames that are looked at per video, evenly spaced from the first to the last."""
BLACK = 8.0
"""Mean luma (BT.601, 0 to 255) below which a frame is black; a sample is black if all of its frames are."""
FROZEN = 0.3
"""Mean absolute difference of two frames, in levels of 0 to 255, below which nothing moves. A camera's noise alone
makes frames differ by more."""

Compare = Callable[[Sample, bytes, Sequence[int], int, int], tuple[Outcome, str]]
"""A second decoder's opinion, as `compare_decoders.Comparison` gives it.

It takes a video, its bytes, ascending frame indices, and the height and width to which frames are scaled, and returns
the outcome with a reason (empty if the decoders agree).
"""


def look(sample: Sample, report: CheckReport, compare: Compare | None) -> None:
    """Decode a few frames of a sample in the sandbox and note in `report` what is wrong with them."""
    name = member_name(sample)
    data = read_member(sample)
    indices = np.unique(np.linspace(0, sample.frames - 1, LOOKS).round().astype(int)).tolist()
    try:
        frames = run_sandboxed(thumbnails, data, indices if sample.kind == "video" else None)
    except DataError as error:
        report.note(name, "undecodable", str(error))
        return
    report.decoded.append((sample, frames))

    luma = frames @ np.array([0.299, 0.587, 0.114])
    if luma.mean(axis=(1, 2)).max() < BLACK:
        report.note(name, "black", f"mean luma {luma.mean():.1f} of 255")
    if sample.kind == "image":
        return

    # The thumbnails are small, so differences between neighbouring looks show motion rather than fine noise.
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    if sample.frames > 1 and steps.max() < FROZEN:
        report.note(name, "frozen", f"frames differ by {steps.max():.2f} of 255 at most")

    if compare is not None:
        outcome, detail = compare(sample, data, indices, *frames.shape[1:3])
        report.compared[outcome] += 1
        if outcome == "disagree":
            report.note(name, "decoders disagree", detail)
        elif outcome == "not compared":
            report.not_compared[detail] += 1
