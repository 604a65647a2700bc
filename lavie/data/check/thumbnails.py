"""Small copies of a few frames of a video or an image.

This module runs in the child process of `lavie.data.prepare.sandbox`, so it imports nothing heavy.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..media.decode import decode_frames
from ..media.image import decode_image

SIDE = 256
"""Most pixels along the longer side: enough to see what a frame shows, and small in a report."""


def thumbnails(data: bytes, indices: Sequence[int] | None) -> np.ndarray:
    """Decode the frames of a video at the ascending `indices`, or an image if `indices` is None, and shrink them.

    Returns:
        uint8 (F, H, W, 3), RGB, with at most SIDE pixels along the longer side.
    """
    return _shrink(decode_image(data)[None] if indices is None else decode_frames(data, indices))


def _shrink(frames: np.ndarray) -> np.ndarray:
    """Scale frames, uint8 (F, H, W, 3), to SIDE pixels along the longer side, unless they are smaller."""
    height, width = frames.shape[1:3]
    factor = min(1.0, SIDE / max(height, width))
    if factor == 1:
        return frames
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])
