"""The shots of a film between its transitions, and the parts that long ones are split into."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .splitters.base import Transition

TIE = 1e-6
"""Seconds that rounding may add to a shot before it counts as longer."""
UNEVEN = 0.25
"""By how much of an even part a split may move to a keyframe."""


class Shot(NamedTuple):
    """Frames of a film that are shown one after the other by one camera, or a part of them."""

    start: int
    """The first frame, counted from 0."""
    end: int
    """The frame behind the last one."""


def shots_of(transitions: Sequence[Transition], frames: int) -> list[Shot]:
    """Return what lies between transitions, but for empty shots.

    Args:
        transitions: in order and disjoint.
        frames: of the film.
    """
    starts = [0, *(transition.end for transition in transitions)]
    ends = [*(transition.start for transition in transitions), frames]
    return [Shot(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def split(shot: Shot, times: np.ndarray, is_key: np.ndarray, max_seconds: float) -> list[Shot]:
    """Return a shot as one part, or as the fewest even parts of which none is too long.

    A split moves to the nearest keyframe if one lies so near that no part gets too long, for a part that begins at a
    keyframe may be copied without encoding.

    Args:
        shot: the shot.
        times: float64 (F + 1,), when each frame of the film is shown, and when the last one ends, in seconds.
        is_key: bool (F,), the film's keyframes.
        max_seconds: the length of the longest part.
    """
    first, last = times[shot.start], times[shot.end]
    count = math.ceil((last - first - TIE) / max_seconds)
    if count <= 1:
        return [shot]
    part = (last - first) / count
    reach = min(UNEVEN * part, (max_seconds - part) / 2)
    keys = shot.start + np.flatnonzero(is_key[shot.start : shot.end])
    places = []
    for target in first + part * np.arange(1, count):
        near = keys[np.abs(times[keys] - target) <= reach]
        is_nearest = np.abs(times[near] - target).argmin() if near.size else None
        places.append(int(np.searchsorted(times, target - TIE) if is_nearest is None else near[is_nearest]))
    bounds = sorted({shot.start, *places, shot.end})
    return [Shot(start, end) for start, end in pairwise(bounds)]
