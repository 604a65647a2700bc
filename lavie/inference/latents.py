"""Frames to latents and back in bounded memory: a few frames at a time, large ones in overlapping tiles.

A tile sees nothing beyond its edges, so an autoencoder with attention or pooled norms gives slightly other pixels than
it would give for the whole frame; blending leaves no step between them. A pointwise autoencoder gives the same.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from ..pixels import to_float, to_uint8
from .chunking import Axis, Region, scaled, windowed, within
from .finite import is_finite, require_finite_clip
from .settings import DECODE_TILE

DECODE_OVERLAP = 32
"""Latents that neighbouring tiles share along both axes, at most; small tiles share a quarter."""
FRAMES_AT_ONCE = 4
"""Frames whose pixels are held as floats at once."""


def to_pixels(frames: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Return frames uint8 (..., H, W, 3) as float32 (..., 3, H, W) in [-1, 1] on the device."""
    return to_float(torch.tensor(np.asarray(frames)).to(device))


def check_frames(frames: np.ndarray | Tensor, count: int, what: str) -> None:
    """Raise ConfigError unless `frames` are uint8 (count, F, H, W, 3).

    Args:
        count: the number of prompts.
        what: the name of the frames in the message.
    """
    if np.asarray(frames).dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ConfigError(f"{what}: got {frames.dtype} {tuple(frames.shape)}, wanted uint8 (B, F, H, W, 3)")
    if len(frames) != count:
        raise ConfigError(f"got {count} prompts and {len(frames)} clips: wanted one prompt for each clip, at least 1")


def encode(
    autoencoder: Autoencoder, frames: np.ndarray | Tensor, device: torch.device, tile: int = DECODE_TILE
) -> Tensor:
    """Return the means of the posteriors of frames.

    Args:
        frames: uint8 (B, F, H, W, 3).
        tile: latents along both axes that go through the autoencoder at once.

    Returns:
        float32 (B, C, F, H / stride, W / stride) on the device.

    Raises:
        ConfigError: H or W is no multiple of the stride.
    """
    batch, count, height, width = frames.shape[:4]
    check_size(height, width, autoencoder.stride)
    flat = np.asarray(frames).reshape(batch * count, height, width, 3)
    chunks = (flat[start : start + FRAMES_AT_ONCE] for start in range(0, len(flat), FRAMES_AT_ONCE))
    latents = [_encoded(autoencoder, to_pixels(chunk, device), tile) for chunk in chunks]
    return torch.cat(latents).unflatten(0, (batch, count)).transpose(1, 2)


def empty_frame(
    autoencoder: Autoencoder, height: int, width: int, device: torch.device, tile: int = DECODE_TILE
) -> Tensor:
    """Return the latents of a frame of grey pixels, 0 in -1 .. 1, which stands for a frame that is not given.

    It is `empty_latents` of training, in tiles where the frame is large.

    Returns:
        float32 (C, height / stride, width / stride) on the device.
    """
    return _encoded(autoencoder, torch.zeros(1, 3, height, width, device=device), tile)[0]


def _encoded(autoencoder: Autoencoder, pixels: Tensor, tile: int) -> Tensor:
    """Return the means of the posteriors of pixels (n, 3, H, W), encoded in tiles: float32 (n, C, h, w)."""
    stride = autoencoder.stride

    def encoded(region: Region) -> Tensor:
        """Return the latents of a region, which is given in latents."""
        return autoencoder.encode(within(pixels, scaled(region, (stride, stride)))).float()

    return windowed(encoded, tiles(pixels.shape[2] // stride, pixels.shape[3] // stride, tile))


def decode(autoencoder: Autoencoder, latents: Tensor, tile: int = DECODE_TILE) -> np.ndarray:
    """Return the frames of latents, in the memory of the host.

    Args:
        latents: (B, C, F, h, w).
        tile: latents along both axes that go through the autoencoder at once.

    Returns:
        uint8 (B, F, h * stride, w * stride, 3).

    Raises:
        NotFiniteError: the latents, or the pixels, hold NaN or infinity.
    """
    stride = autoencoder.stride
    axes = tiles(latents.shape[3], latents.shape[4], tile)

    def decoded(chunk: Tensor, region: Region) -> Tensor:
        """Return the pixels of a region, which is given in latents."""
        return autoencoder.decode(within(chunk, region)).float()

    frames, finite = [], []
    for chunk in latents.transpose(1, 2).flatten(0, 1).split(FRAMES_AT_ONCE):
        pixels = windowed(partial(decoded, chunk), axes, scales=(stride, stride))
        finite.append(is_finite(pixels))
        frames.append(to_uint8(pixels).cpu().numpy())
    require_finite_clip(is_finite(latents), torch.stack(finite).all())
    return np.concatenate(frames).reshape(len(latents), -1, *frames[0].shape[1:])


def tiles(height: int, width: int, tile: int) -> list[Axis]:
    """Return the two axes of a frame of latents, rows and columns, cut into overlapping tiles."""
    overlap = min(DECODE_OVERLAP, tile // 4)
    return [Axis(length, tile, overlap, name="decode_tile") for length in (height, width)]


def check_size(height: int, width: int, stride: int) -> None:
    """Raise ConfigError unless both sides are positive multiples of the stride."""
    if height < 1 or width < 1 or height % stride or width % stride:
        raise ConfigError(f"height x width: got {height} x {width}, wanted positive multiples of {stride}")
