"""A few small frames of a medium, to be looked at.

This module is light to import, because it runs in the child process of `lavie.data.prepare.sandbox`.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..media.decode import decode_frames, decode_image

SIDE = 256
"""Pixels of the longer side."""


def thumbnails(data: bytes, indices: Sequence[int] | None) -> np.ndarray:
    """The frames at `indices` of a video, or an image where it is None: uint8 (F, H, W, 3), SIDE pixels at most."""
    return small(decode_image(data)[None] if indices is None else decode_frames(data, indices))


def small(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (F, H, W, 3), made SIDE pixels along the longer side where they are larger."""
    height, width = frames.shape[1:3]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if factor == 1:
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in frames])
