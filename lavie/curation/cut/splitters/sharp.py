"""The splitter `sharp`: a cut stands out from the frames around it. It needs the scan's values alone.

A new shot begins at frame i if its difference from frame i - 1 (the mean over hue, saturation and value, 0 to 255)

1. is at least THRESHOLD,
2. is at least RATIO times the mean of the three differences before it and the three after it, and
3. is the largest of those up to two frames away; of equal ones, the first.

A fixed threshold alone takes explosions and whip pans for cuts, and misses cuts between pictures that are alike. On
tears_of_steel, whose 25 cuts were found by eye, thresholds of 22 to 27 with ratios of 1.6 to 1.8 give exactly these.
"""

from collections.abc import Mapping

import numpy as np

from .base import Pictures, Transition, hard_cuts

THRESHOLD, RATIO = 24.0, 1.7
"""The middle of the plateau on which no cut is missed and none is false."""
AROUND, APART = 3, 2
"""Differences on each side with which one is compared, and the frames within which there is one cut at most."""


class Sharp:
    """The splitter."""

    def transitions(self, values: Mapping[str, np.ndarray], pictures: Pictures) -> list[Transition]:
        """Return the hard cuts of a film; dissolves are answered by one cut or none."""
        return hard_cuts(sharp_cuts(values["diff"]))


def sharp_cuts(diff: np.ndarray) -> list[int]:
    """Return the first frame of every shot but the first.

    Args:
        diff: (F,), the difference of each frame from the one before it; the first frame's means nothing.
    """
    steps = diff.astype(np.float64)
    cuts = []
    for i in np.flatnonzero(steps >= THRESHOLD).tolist():
        before, after = steps[max(1, i - AROUND) : i], steps[i + 1 : i + 1 + AROUND]
        if i == 0 or before[-APART:].max(initial=0) >= steps[i] or after[:APART].max(initial=0) > steps[i]:
            continue
        around = np.concatenate([before, after])
        if not around.size or steps[i] >= RATIO * around.mean():
            cuts.append(i)
    return cuts
