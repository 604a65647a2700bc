"""The low resolution of a super-resolution pair: the high one blurred, shrunk, made noisy and compressed."""

import io
import math

import numpy as np
import torch
from PIL import Image

from ...config.data import DegradationConfig

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""The filters of `DegradationConfig.filters`, by name. All are antialiased: they get wider as the scale grows."""


def degrade(frames: np.ndarray, config: DegradationConfig, generator: np.random.Generator) -> np.ndarray:
    """Return the low resolution of a clip: uint8 (F, H / scale, W / scale, 3).

    1. Gaussian blur and shrinking, exact.
    2. Gaussian noise, and rounding to uint8, half to even.
    3. JPEG, but not at quality 100.

    Filter, blur, strength of the noise, and quality are drawn once for the clip; the noise is drawn for each frame.

    Args:
        frames: the high resolution, uint8 (F, H, W, 3).
        config: the scale, and the ranges to draw from.
        generator: the source of all that is drawn.

    Raises:
        ValueError: H or W is no multiple of the scale.
    """
    height, width = frames.shape[1:3]
    if height % config.scale or width % config.scale:
        raise ValueError(f"{height} x {width} pixels: both must be multiples of the scale, {config.scale}")

    # The order of these draws decides which low resolution a seed gives.
    filter_name = config.filters[generator.integers(len(config.filters))]
    blur, noise = generator.uniform(*config.blur), generator.uniform(*config.noise)
    quality = int(generator.integers(*config.jpeg_quality, endpoint=True))

    # Both axes are linear maps, so that blur and filter are computed once for all frames.
    rows = _shrinking(height, config.scale, FILTERS[filter_name], blur)
    columns = _shrinking(width, config.scale, FILTERS[filter_name], blur)
    low = []
    for frame in frames:
        picture = torch.from_numpy(frame).double()  # in float64 the rounding does not depend on the order of the sums
        shrunk = (columns @ (rows @ picture.flatten(1)).unflatten(1, (width, 3))).numpy()
        noisy = shrunk + 255 * noise * generator.standard_normal(shrunk.shape)
        pixels = np.rint(noisy).clip(0, 255).astype(np.uint8)
        low.append(pixels if quality == 100 else _jpeg(pixels, quality))
    return np.stack(low)


def _shrinking(size: int, scale: int, filter_: Image.Resampling, blur: float) -> torch.Tensor:
    """Return blurring and shrinking along one axis, both linear, as one matrix: float64 (size / scale, size).

    Each row sums to 1. Past its ends the axis repeats its last pixel for the blur, and the filters are cut off.

    Args:
        size: pixels along the axis.
        scale: the factor by which it is shrunk.
        filter_: the filter of the shrinking.
        blur: the standard deviation of the blur, in pixels of the high resolution; 0 for none.
    """
    # Pillow's filter applied to an identity matrix gives its own matrix.
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    shrink = torch.from_numpy(np.array(identity.resize((size, size // scale), filter_), np.float64))
    shrink /= shrink.sum(1, keepdim=True)  # the sums are 1 only up to the rounding of float32
    return shrink @ _blurring(size, blur) if blur else shrink


def _blurring(size: int, sigma: float) -> torch.Tensor:
    """Return a Gaussian blur along one axis as a matrix, float64 (size, size), cut off at four standard deviations."""
    reach = math.ceil(4 * sigma)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix, pixels = np.zeros((size, size)), np.arange(size)
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        matrix[pixels, np.clip(pixels + offset, 0, size - 1)] += weight
    return torch.from_numpy(matrix)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3), as it comes back from a JPEG of the given quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))
