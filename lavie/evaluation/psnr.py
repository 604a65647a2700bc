"""Peak signal-to-noise ratio, and the ways to do without a network that the later stages of the cascade must beat."""

import numpy as np
from PIL import Image

ClipPixels = np.ndarray
"""The frames of a clip, uint8 (F, H, W, 3)."""


def psnr(frames: ClipPixels, truth: ClipPixels) -> float:
    """Return 10 log10(255^2 / mean squared error) over all frames, in dB; infinite where they are equal.

    Raises:
        ValueError: the shapes differ.
    """
    if frames.shape != truth.shape:
        raise ValueError(f"frames {frames.shape}, truth {truth.shape}: wanted one shape")
    error = np.square(frames.astype(np.float64) - truth.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def repeat(keys: ClipPixels, interval: int) -> ClipPixels:
    """Return a clip whose every frame shows the key frame nearest to it, the earlier of two equally near.

    Args:
        keys: K key frames.
        interval: frames from one key frame to the next.

    Returns:
        (K - 1) * interval + 1 frames.
    """
    positions = np.arange((len(keys) - 1) * interval + 1)
    return keys[(positions + (interval - 1) // 2) // interval]


def blend(keys: ClipPixels, interval: int) -> ClipPixels:
    """Return a clip whose every frame is the mean of the key frames around it, weighted by distance; see `repeat`."""
    positions = np.arange((len(keys) - 1) * interval + 1) / interval
    before = np.minimum(positions.astype(int), len(keys) - 2)
    share = (positions - before)[:, None, None, None]
    return np.rint((1 - share) * keys[before] + share * keys[before + 1]).astype(np.uint8)


def bicubic(frames: ClipPixels, scale: int) -> ClipPixels:
    """Return frames enlarged by bicubic interpolation: (F, h, w, 3) -> (F, scale * h, scale * w, 3)."""
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])
