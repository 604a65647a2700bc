"""The steps of a protocol on pixels: from uint8 frames to the input of an extractor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import DataError
from .protocol import Crop, Resize, Round, Step


def apply_steps(frames: np.ndarray, steps: Sequence[Step]) -> Tensor:
    """Return the frames of a clip as an extractor takes them.

    Args:
        frames: uint8 (F, H, W, 3).
        steps: what is done, in order.

    Returns:
        float32 (3, F, h, w) in [-1, 1].

    Raises:
        DataError: the frames are smaller than a crop.
    """
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    for step in steps:
        if isinstance(step, Resize):
            x = _resized(x, step)
        elif isinstance(step, Crop):
            x = _cropped(x, *step.size)
        elif isinstance(step, Round):
            x = x.round_().clamp_(0, 255)
    return x.transpose(0, 1).contiguous().div_(127.5).sub_(1)


def _resized(x: Tensor, step: Resize) -> Tensor:
    """Return pictures (F, 3, H, W) resized by bilinear interpolation."""
    height, width = x.shape[-2:]
    if step.stretch is not None:
        size = step.stretch
    else:
        assert step.short_side is not None
        short = min(height, width)
        size = (step.short_side * height // short, step.short_side * width // short)
    if (height, width) == size:
        return x
    if step.grid == "centres":
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=step.antialias)
    return _between(_between(x, size[0], -2), size[1], -1)


def _between(x: Tensor, size: int, axis: int) -> Tensor:
    """Return `x` with `size` values along an axis, value i read at i * old / size: TensorFlow 1's grid."""
    old = x.shape[axis]
    at = torch.arange(size, dtype=torch.float64) * (old / size)
    low = at.long().clamp_max(old - 1)
    share = (at - low).float().view(-1, *([1] * (-1 - axis)))
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(old - 1)), share)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of pictures (F, 3, H, W)."""
    if x.shape[-2] < height or x.shape[-1] < width:
        raise DataError(f"frames of {x.shape[-1]} x {x.shape[-2]} pixels: the protocol crops {width} x {height}")
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
