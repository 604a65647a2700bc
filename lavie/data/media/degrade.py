"""The low resolution of a super-resolution pair: the high one blurred, shrunk, noised and compressed."""

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
"""The names of `DegradationConfig.filters`. All are antialiased: as wide as a pixel of the low resolution asks for."""


def degrade(frames: np.ndarray, config: DegradationConfig, generator: np.random.Generator) -> np.ndarray:
    """What the network gets to see of `frames`: uint8 (F, H / scale, W / scale, 3) from uint8 (F, H, W, 3).

    Gaussian blur, shrinking, Gaussian noise and JPEG, in this order. Filter, blur, strength of the noise and quality
    are drawn once for the clip, from the ranges of `config`; the noise anew for each frame. Blur and shrinking are
    exact up to the one rounding to uint8, half to even, that follows the noise.

    Raises ValueError if H or W is no multiple of the scale.
    """
    height, width = frames.shape[1:3]
    if height % config.scale or width % config.scale:
        raise ValueError(f"{height} x {width} pixels: both must be multiples of the scale, {config.scale}")
    filter_name = config.filters[generator.integers(len(config.filters))]
    blur, noise = generator.uniform(*config.blur), generator.uniform(*config.noise)
    quality = int(generator.integers(*config.jpeg_quality, endpoint=True))
    rows, columns = (_shrinking(size, config.scale, FILTERS[filter_name], blur) for size in (height, width))
    low = []
    for frame in frames:
        picture = torch.from_numpy(frame).double()  # in float64 the rounding does not depend on the order of the sums
        shrunk = (columns @ (rows @ picture.flatten(1)).unflatten(1, (width, 3))).numpy()
        noised = shrunk + 255 * noise * generator.standard_normal(shrunk.shape)
        pixels = np.rint(noised).clip(0, 255).astype(np.uint8)
        low.append(pixels if quality == 100 else _jpeg(pixels, quality))
    return np.stack(low)


def _shrinking(size: int, scale: int, filter_: Image.Resampling, blur: float) -> torch.Tensor:
    """float64 (size / scale, size): blurring and shrinking along one axis, both linear, as one matrix.

    Each row sums to 1. Past its ends the axis repeats its last pixel for the blur, and the filters are cut off.
    """
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    shrink = torch.from_numpy(np.array(identity.resize((size, size // scale), filter_), np.float64))
    shrink /= shrink.sum(1, keepdim=True)  # 1 up to float32 until here
    return shrink @ _blurring(size, blur) if blur else shrink


def _blurring(size: int, sigma: float) -> torch.Tensor:
    """float64 (size, size): a Gaussian blur along one axis, cut off at four standard deviations."""
    reach = math.ceil(4 * sigma)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix, pixels = np.zeros((size, size)), np.arange(size)
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        matrix[pixels, np.clip(pixels + offset, 0, size - 1)] += weight
    return torch.from_numpy(matrix)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))
