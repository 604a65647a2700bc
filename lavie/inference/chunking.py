"""Long and large clips in overlapping windows, blended without seams.

Every axis is cut into windows that overlap; where they do, their outputs are averaged with smooth weights that sum to 1
(MultiDiffusion, Bar-Tal et al. 2023, Eq. 5, with weights that fall to zero towards a window's inner edges).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError

Place = tuple[slice, ...]
"""One window of the last axes of a tensor, a slice each."""


def windows(length: int, size: int, overlap: int, *, multiple: int = 1, name: str = "window") -> list[slice]:
    """The fewest windows of at most `size` that cover 0 .. length and overlap by at least `overlap`, evenly spread.

    Args:
        multiple: windows begin at multiples of it, as the strides of a network with resolution levels ask for; only the
            last one may then be shorter than the others, by less than `multiple`.
        name: the setting that an error is about.

    Raises:
        ConfigError: a window does not reach beyond its overlap.
    """
    if length <= size:
        return [slice(0, length)]
    reach = (size - overlap) // multiple * multiple
    if overlap < 0 or reach < 1:
        raise ConfigError(
            f"{name}: got windows of {size} that overlap by {overlap}, wanted an overlap of 0 .. {size - multiple}"
        )
    last = math.ceil((length - size) / multiple)  # all in units of `multiple`
    steps = math.ceil(last * multiple / reach)
    starts = [i * last // steps * multiple for i in range(steps + 1)]
    return [slice(start, min(start + size, length)) for start in starts]


def weights(cuts: Sequence[slice], scale: int = 1) -> list[Tensor]:
    """Per window its weight at each of its places, float32 (window's length * scale,): at every place they sum to 1.

    Between two windows the weight passes from one to the other as sin^2 over their overlap.
    """
    total = torch.zeros(cuts[-1].stop * scale, dtype=torch.float64)
    ramps = []
    for number, cut in enumerate(cuts):
        ramp = torch.ones((cut.stop - cut.start) * scale, dtype=torch.float64)
        if number:
            rise = _rise((cuts[number - 1].stop - cut.start) * scale)
            ramp[: len(rise)] *= rise
        if number + 1 < len(cuts):
            rise = _rise((cut.stop - cuts[number + 1].start) * scale)
            ramp[len(ramp) - len(rise) :] *= rise.flip(0)
        total[cut.start * scale : cut.stop * scale] += ramp
        ramps.append(ramp)
    return [(ramp / total[cut.start * scale : cut.stop * scale]).float() for cut, ramp in zip(cuts, ramps, strict=True)]


def _rise(length: int) -> Tensor:
    """sin^2 from 0 to 1, at the middles of `length` equal parts."""
    return ((torch.arange(length, dtype=torch.float64) + 0.5) / length * (math.pi / 2)).sin().square()


def windowed(
    predict: Callable[[Place], Tensor], axes: Sequence[Sequence[slice]], *, scales: Sequence[int] | None = None
) -> Tensor:
    """What `predict` says of every window, blended into one tensor. A single window is passed through untouched.

    Args:
        predict: a window's place -> (..., its lengths, times `scales`).
        axes: the windows of the last axes, as `windows` gives them.
        scales: per axis, places of the output per place of the windows; default 1 each.
    """
    scales = scales or [1] * len(axes)
    if all(len(cuts) == 1 for cuts in axes):
        return predict(tuple(cuts[0] for cuts in axes))
    ramps = [weights(cuts, scale) for cuts, scale in zip(axes, scales, strict=True)]
    result = None
    for numbers in itertools.product(*(range(len(cuts)) for cuts in axes)):
        place = tuple(cuts[number] for cuts, number in zip(axes, numbers, strict=True))
        output = predict(place)
        for axis, number in enumerate(numbers):
            ramp = ramps[axis][number].to(output)
            output = output * ramp.reshape(-1, *(1,) * (len(axes) - 1 - axis))
        if result is None:
            lengths = [cuts[-1].stop * scale for cuts, scale in zip(axes, scales, strict=True)]
            result = output.new_zeros(*output.shape[: -len(axes)], *lengths)
        within(result, scaled(place, scales)).add_(output)
    assert result is not None
    return result


def within(x: Tensor, place: Place) -> Tensor:
    """The window of the last axes of x, a view."""
    index: tuple[Any, ...] = (..., *place)
    return x[index]


def scaled(place: Place, scales: Sequence[int]) -> Place:
    """The same window where every axis has `scales` as many places."""
    return tuple(slice(cut.start * scale, cut.stop * scale) for cut, scale in zip(place, scales, strict=True))
