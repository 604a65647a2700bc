"""Scores of a clip that need no network: flicker, smoothness against a blend, and how much moves."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import DataError

BLOCK, REACH, SHORT_SIDE = 8, 8, 128
"""Blocks of the search for displacements, how far it looks, and the size at which it does: pixels."""
UNIT = 256
"""The shorter side in whose pixels displacements are told: VBench's threshold of motion is 6 of them."""
CERTAIN = 1.0
"""Levels of 255 by which a displaced block must fit better than one that stands still, or noise would count."""
TOP = 0.05
"""The share of a picture that moves most, which VBench's dynamic degree looks at."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
PAIRS = 16
"""Pairs of frames that are searched at a time."""


def flickering(frames: np.ndarray) -> float:
    """Return VBench's temporal flickering of a clip: 1 less the mean absolute difference of neighbours over 255.

    Computed in float32, as VBench does. A frozen clip has 1.

    Args:
        frames: uint8 (F, H, W, 3), two frames or more.
    """
    return (255.0 - difference(frames)) / 255.0


def difference(frames: np.ndarray) -> float:
    """Return the mean absolute difference of neighbouring frames, in levels of 0 to 255.

    Args:
        frames: uint8 (F, H, W, 3), two frames or more.

    Raises:
        DataError: there is one frame only.
    """
    _require(frames, 2)
    pairs = [_distance(a.astype(np.float32), b.astype(np.float32)) for a, b in pairwise(frames)]
    return float(np.mean(np.array(pairs, dtype=np.float32)))


def blend(frames: np.ndarray) -> float:
    """Return how well each odd frame is the rounded mean of its neighbours: 1 less the mean difference over 255.

    VBench's motion smoothness has a network, AMT-S, in place of the mean. This is not that score, and is far from it
    where much moves. A frozen clip has 1.

    Args:
        frames: uint8 (F, H, W, 3), three frames or more.

    Raises:
        DataError: there are fewer frames.
    """
    _require(frames, 3)
    values = []
    for middle in range(1, len(frames) - 1, 2):
        before, after = frames[middle - 1].astype(np.float32), frames[middle + 1].astype(np.float32)
        values.append(_distance(np.rint((before + after) / 2), frames[middle].astype(np.float32)))
    return float((255.0 - np.mean(np.array(values, dtype=np.float64))) / 255.0)


def _require(frames: np.ndarray, count: int) -> None:
    """Raise DataError if a clip is too short."""
    if len(frames) < count:
        raise DataError(f"{len(frames)} frames: wanted {count} or more")


def _distance(a: np.ndarray, b: np.ndarray) -> np.floating:
    """Return the mean absolute difference of two frames in float32."""
    return np.mean(np.abs(a - b))


@dataclass(frozen=True)
class Motion:
    """How much a clip moves. A frozen clip has 0 in all of it."""

    difference: float
    """Mean absolute difference of neighbouring frames, levels of 0 to 255. Flicker and noise count too."""
    displacement: float
    """Mean distance that a block moves from frame to frame, in pixels of a picture whose shorter side is 256."""
    displacement_top: float
    """The same of the 5 % of the blocks that move most in each pair of frames."""


def motion(frames: np.ndarray) -> Motion:
    """Return how much a clip moves, of frames uint8 (F, H, W, 3), two or more."""
    lengths = displacements(frames)
    top = max(1, round(TOP * lengths.shape[1]))
    most = np.sort(lengths, axis=1)[:, -top:]
    return Motion(difference(frames), float(lengths.mean()), float(most.mean()))


def displacements(frames: np.ndarray) -> np.ndarray:
    """Return how far each block of a clip moves to the next frame, by search for the block that fits best.

    1. Frames become grey, with a shorter side of 128 pixels, and are cut into blocks of 8 x 8.
    2. A block is looked for in the next frame up to 8 pixels away on both axes, by mean absolute difference.
    3. It has moved if it fits better elsewhere by one level of 255; the shortest way wins where several fit.

    So displacements are whole pixels of that size, 2 pixels at a shorter side of 256 and 16 at most on an axis. No
    network is needed, and large, blurred or featureless motion is not seen.

    Args:
        frames: uint8 (F, H, W, 3), two frames or more.

    Returns:
        float32 (F - 1, blocks), in pixels of a picture whose shorter side is 256.
    """
    _require(frames, 2)
    grey = torch.cat([_grey(frames[i : i + PAIRS]) for i in range(0, len(frames), PAIRS)])
    parts = [_search(grey[i : i + PAIRS + 1]) for i in range(0, len(frames) - 1, PAIRS)]
    return torch.cat(parts).mul_(UNIT / SHORT_SIDE).numpy()


def _grey(frames: np.ndarray) -> Tensor:
    """Return frames as float32 (F, 1, h, w) of 0 to 255, with a shorter side of 128 and whole blocks."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (round(SHORT_SIDE * height / short), round(SHORT_SIDE * width / short))
    grey = torch.from_numpy(frames.astype(np.float32) @ np.array(LUMA, dtype=np.float32))[:, None]
    small = F.interpolate(grey, size, mode="bilinear", align_corners=False, antialias=True)
    return small[..., : size[0] // BLOCK * BLOCK, : size[1] // BLOCK * BLOCK]


def _search(grey: Tensor) -> Tensor:
    """Return the length of the displacement of each block of frames (F, 1, h, w) but the last: (F - 1, blocks)."""
    now, following = grey[:-1], F.pad(grey[1:], [REACH] * 4, mode="replicate")
    height, width = now.shape[-2:]
    still = F.avg_pool2d((now - grey[1:]).abs(), BLOCK)
    best, lengths = still - CERTAIN, torch.zeros_like(still)
    steps = range(-REACH, REACH + 1)
    for y, x in sorted(((y, x) for y in steps for x in steps if y or x), key=lambda step: step[0] ** 2 + step[1] ** 2):
        moved = following[..., REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        cost = F.avg_pool2d((now - moved).abs(), BLOCK)
        better = cost < best
        best = torch.where(better, cost, best)
        lengths = torch.where(better, (y * y + x * x) ** 0.5, lengths)
    return lengths.flatten(1)
