"""Long and large clips in overlapping windows, blended without seams.

An axis is cut into windows that overlap; where they do, one passes into the other with smooth weights that sum to 1
(MultiDiffusion, Bar-Tal et al. 2023, Eq. 5, with weights that fall to zero towards a window's inner edges).

The mean of two outputs that differ varies less than either, so a position that is an overlap at every step ends up
smoother than its surroundings: a seam. Therefore the windows move from step to step of denoising, through all the
positions between two of them, in the order of the golden ratio's multiples (a low-discrepancy sequence): every position
is an overlap equally often, over a few steps already. The moves are a function of the step's number alone, the same for
every clip. They cost at most one window more per axis and step.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..carry import carry
from ..errors import ConfigError

Region = tuple[slice, ...]
"""One window along each of the last axes of a tensor, such as frames, rows and columns."""
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Axis:
    """How one axis is cut: into windows of `size` positions, at steps that are multiples of `multiple`.

    Raises:
        ConfigError: a window does not reach beyond its overlap.
    """

    length: int
    """Positions of the axis."""
    size: int
    """Positions of a window; `length` or more leave the axis whole."""
    overlap: int = 0
    """Positions, at least, over which neighbouring windows are blended."""
    multiple: int = 1
    """Windows begin at multiples of it, as the strides of a network with resolution levels ask for. Only the last one
    may then be shorter than the others, by less than `multiple`."""
    name: str = "window"
    """The setting that an error is about."""

    def __post_init__(self) -> None:
        if not self.whole and (self.overlap < 0 or self.reach < 1):
            raise ConfigError(
                f"{self.name}: got windows of {self.size} that overlap by {self.overlap}, wanted an overlap of "
                f"0 .. {self.size - self.multiple}"
            )

    @property
    def whole(self) -> bool:
        """Whether one window covers the axis."""
        return self.length <= self.size

    @property
    def reach(self) -> int:
        """Positions from one window's start to the next one's."""
        return (self.size - self.overlap) // self.multiple * self.multiple

    @property
    def window(self) -> int:
        """Positions of the largest window."""
        return min(self.length, self.size)

    @property
    def count(self) -> int:
        """The most windows that a step has."""
        moves = range(0, self.reach, self.multiple)
        return 1 if self.whole else max(len(self._starts(move)) for move in moves)

    def windows(self, step: int = 0) -> list[slice]:
        """Return the windows at a denoising step, which cover the axis; at step 0 they are the fewest that can."""
        if self.whole:
            return [slice(0, self.length)]
        # Windows that would stick out at an end are moved inside: the network never sees a shorter one than it must.
        last = -(-(self.length - self.size) // self.multiple) * self.multiple
        starts = (min(max(start, 0), last) for start in self._starts(self._move(step)))
        return [slice(start, min(start + self.size, self.length)) for start in starts]

    def weights(self, step: int = 0, scale: int = 1) -> list[Tensor]:
        """Return the weight of each window of a step at each of its positions.

        At every position of the axis the weights of all windows sum to 1. Between two windows the weight passes from
        one to the other as sin^2.

        Args:
            scale: positions of the output per position of the window.

        Returns:
            for each window float32 (window's length * scale,).
        """
        windows = self.windows(step)
        if self.whole:
            return [torch.ones(self.length * scale)]

        # A window moved inside overlaps more than its neighbours; it is blended where it would be had it not moved.
        position = (torch.arange(self.length * scale, dtype=torch.float64) + 0.5) / scale
        width = max(self.size - self.reach, 1e-9)  # windows that only touch are not blended
        rises = [
            ((position - start) / width).clamp(0, 1).mul(math.pi / 2).sin().square()
            for start in self._starts(self._move(step))[1:]
        ]

        # A window's weight has risen where it begins, and falls where the next one rises.
        ones = torch.ones_like(position)
        ramps = [rise * (1 - fall) for rise, fall in zip([ones, *rises], [*rises, 0 * ones], strict=True)]
        total = torch.stack(ramps).sum(0)  # 1, unless three windows meet
        return [
            (ramp / total)[window.start * scale : window.stop * scale].float()
            for ramp, window in zip(ramps, windows, strict=True)
        ]

    def _move(self, step: int) -> int:
        """Return by how much the windows of a step are moved, a multiple of `multiple` below the reach."""
        moves = self.reach // self.multiple
        fractions = [number * GOLDEN % 1 for number in range(moves)]
        return sorted(fractions).index(fractions[step % moves]) * self.multiple

    def _starts(self, move: int) -> list[int]:
        """Return where the windows would start if the axis had no ends.

        The first window starts at 0 or before, the others after it; the last overlap is within the axis.
        """
        end = self.length - (self.size - self.reach)
        return [move - self.reach if move else 0, *range(move or self.reach, end, self.reach)]


Axes = Sequence[Axis]
"""The last axes of a tensor, such as frames, rows and columns."""


def whole(shape: Sequence[int]) -> list[Axis]:
    """Return the axes of a tensor that is not cut: each has a single window."""
    return [Axis(length, length) for length in shape]


def windowed(
    predict: Callable[[Region], Tensor], axes: Axes, *, step: int = 0, scales: Sequence[int] | None = None
) -> Tensor:
    """Return the outputs of `predict` for all windows, blended into one tensor; a single output stays untouched.

    Args:
        predict: (region) -> (..., its lengths, times `scales`).
        step: the number of the denoising step, from 0.
        scales: per axis, positions of the output per position of the windows; default 1 each.
    """
    scales = scales or [1] * len(axes)
    cuts = [axis.windows(step) for axis in axes]
    if all(axis.whole for axis in axes):
        return predict(tuple(windows[0] for windows in cuts))

    # A region's weight is the product of its windows' weights along the axes, so it too sums to 1 everywhere.
    ramps: list[list[Tensor]] = []
    result = None
    for numbers in itertools.product(*(range(len(windows)) for windows in cuts)):
        region = tuple(windows[number] for windows, number in zip(cuts, numbers, strict=True))
        output = predict(region)
        if not ramps:  # the first output tells where they are to be
            ramps = [
                [carry(ramp.to(output.dtype), output.device) for ramp in axis.weights(step, scale)]
                for axis, scale in zip(axes, scales, strict=True)
            ]
        for axis, number in enumerate(numbers):
            ramp = ramps[axis][number]
            output = output * ramp.reshape(-1, *(1,) * (len(axes) - 1 - axis))
        if result is None:
            lengths = [axis.length * scale for axis, scale in zip(axes, scales, strict=True)]
            result = output.new_zeros(*output.shape[: -len(axes)], *lengths)
        within(result, scaled(region, scales)).add_(output)
    assert result is not None
    return result


def within(x: Tensor, region: Region) -> Tensor:
    """Return a region of the last axes of x, as a view."""
    index: tuple[Any, ...] = (..., *region)
    return x[index]


def scaled(region: Region, scales: Sequence[int]) -> Region:
    """Return the same region of a tensor whose axes have `scales` times as many positions."""
    return tuple(slice(cut.start * scale, cut.stop * scale) for cut, scale in zip(region, scales, strict=True))
