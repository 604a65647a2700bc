"""The perceptual hash of a picture: 63 bits that stay when it is encoded anew, made smaller or brighter.

A bit tells whether a coefficient of the picture's cosine transform is above the median of them all. The picture is grey
and 32 x 32, the coefficients are the 8 x 8 lowest without the mean.
"""

import numpy as np
from PIL import Image

SIZE, LOWEST = 32, 8
"""Pixels along the sides of the picture that is transformed, and coefficients along those of what is kept of it."""
BITS = LOWEST * LOWEST - 1
"""Bits of a hash; the 64th of its uint64 is 0."""
_COSINES = np.cos(np.pi * np.outer(np.arange(LOWEST), 2 * np.arange(SIZE) + 1) / (2 * SIZE))
_PLACES = np.left_shift(np.uint64(1), np.arange(BITS, dtype=np.uint64))


def picture_hash(grey: np.ndarray) -> int:
    """Return the hash of a picture, uint8 (H, W); that of a picture of one colour is 0."""
    small = np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float64)
    # Rounded, so that what is nothing but rounding errors is 0 on every processor.
    values = np.rint(_COSINES @ small @ _COSINES.T).ravel()[1:]
    return int(_PLACES[values > np.median(values)].sum())


def differing(a: int, b: int) -> int:
    """Return in how many bits two hashes differ."""
    return (a ^ b).bit_count()
