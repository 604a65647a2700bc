"""Peak signal-to-noise ratio, and what the later stages of the cascade must beat: doing without a network."""

import numpy as np
from PIL import Image

Frames = np.ndarray
"""uint8 (F, H, W, 3)."""


def psnr(frames: Frames, truth: Frames) -> float:
    """10 log10(255^2 / mean squared error) over all frames, in dB; infinite where they are equal.

    Raises ValueError if the shapes differ.
    """
    if frames.shape != truth.shape:
        raise ValueError(f"frames {frames.shape}, truth {truth.shape}: wanted one shape")
    error = np.square(frames.astype(np.float64) - truth.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def repeat(keys: Frames, interval: int) -> Frames:
    """Each frame shows the key frame nearest to it, the earlier of two: (K, ...) -> ((K - 1) * interval + 1, ...)."""
    places = np.arange((len(keys) - 1) * interval + 1)
    return keys[(places + (interval - 1) // 2) // interval]


def blend(keys: Frames, interval: int) -> Frames:
    """Each frame is the mean of the key frames around it, by distance."""
    places = np.arange((len(keys) - 1) * interval + 1) / interval
    before = np.minimum(places.astype(int), len(keys) - 2)
    share = (places - before)[:, None, None, None]
    return np.rint((1 - share) * keys[before] + share * keys[before + 1]).astype(np.uint8)


def bicubic(frames: Frames, scale: int) -> Frames:
    """Frames enlarged by bicubic interpolation: (F, h, w, 3) -> (F, scale * h, scale * w, 3)."""
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])
