"""What a splitter is: it finds the transitions of a film, from which its shots follow."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Transition(NamedTuple):
    """The frames between two shots, which belong to neither; for a hard cut there are none."""

    start: int
    """The first of them, counted from 0: the frame behind the last one of the old shot."""
    end: int
    """The first frame of the new shot."""


class Pictures(Protocol):
    """The frames of a film, decoded again where a splitter wants to see them."""

    def __call__(self, width: int, height: int) -> Iterator[np.ndarray]:
        """Yield the frames in order, some at a time, scaled without regard to shape and not turned.

        Yields:
            uint8 (n, height, width, 3), RGB.
        """
        ...


class Splitter(Protocol):
    """A detector of transitions, with its threshold."""

    def transitions(self, values: Mapping[str, np.ndarray], pictures: Pictures) -> list[Transition]:
        """Return the transitions of a film, in order and disjoint.

        Args:
            values: what the scan measured of every frame: (F,) for each of `scan.arrays.NAMES`.
            pictures: the same F frames.
        """
        ...


def hard_cuts(frames: list[int]) -> list[Transition]:
    """Return hard cuts as transitions.

    Args:
        frames: the first frame of each new shot, ascending.
    """
    return [Transition(frame, frame) for frame in frames]
