"""What is laid over all shots of a film, as a logo or a word: edges that stay where everything else changes.

The gradient of each shot, with its sign, is clipped and averaged over shots. Edges of pictures cancel out, those of an
overlay add up. One shot in many parts, or one that the film comes back to, would add up too: so only shots count that
look different from all before.
"""

import numpy as np

from .dct_hash import BITS, differing

SHOTS = 20
"""Different shots below which nothing can be told: over 12, the edges of pictures are as strong as those of a logo."""
DIFFERENT = round(0.22 * BITS)
"""Bits in which the hashes of different shots differ at least: those of one picture differ in 0.15, of two in 0.28."""
CLIP = 60.0
"""The largest gradient across or down that counts, in levels of Sobel's filter, so that no single shot decides."""
STRONG = 40.0
"""The mean gradient of an edge that stays; the largest over 26 shots without an overlay was 29, under a word of 15 %
opacity 72."""
STEADY = 0.5
"""The share that the mean's square must have in the mean of squares: edges as of foliage, strong and of any direction,
seldom agree so far in 20 shots."""
AREA = 0.0005
"""The share of pixels with such edges from which on a film has an overlay."""


class Overlay:
    """Looks at one picture of each shot of a film."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._hashes: list[int] = []
        self._sum = np.zeros((2, 0, 0))
        self._squares = np.zeros((0, 0))

    def add(self, grey: np.ndarray, hash: int) -> None:
        """Look at a picture of a shot, uint8 (H, W), with its hash; all of a film are of one size."""
        if any(differing(hash, other) < DIFFERENT for other in self._hashes):
            return
        change = np.clip(gradient(grey), -CLIP, CLIP)
        if not self._hashes:
            self._sum, self._squares = np.zeros_like(change), np.zeros_like(change[0])
        elif change.shape != self._sum.shape:
            return
        self._hashes.append(hash)
        self._sum += change
        self._squares += (change**2).sum(0)

    def area(self) -> float | None:
        """Return the share of pixels at which an edge stays; None after fewer than SHOTS different shots."""
        if len(self._hashes) < SHOTS:
            return None
        square = ((self._sum / len(self._hashes)) ** 2).sum(0)
        stays = (square > STRONG**2) & (square > STEADY * self._squares / len(self._hashes))
        return float(stays.mean())


def gradient(grey: np.ndarray) -> np.ndarray:
    """Return Sobel's gradient of a picture uint8 (H, W), across and down, inside its border: int32 (2, H-2, W-2)."""
    x = grey.astype(np.int32)
    columns, rows = x[:, 2:] - x[:, :-2], x[2:] - x[:-2]
    across = columns[:-2] + 2 * columns[1:-1] + columns[2:]
    down = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    return np.stack([across, down])
