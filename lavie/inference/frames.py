"""Between frames and latents in bounded memory: a few frames at a time, large ones in overlapping tiles.

A tile sees nothing beyond its edges, so an autoencoder with attention or pooled norms gives slightly other pixels than
it would give for the whole frame; blending leaves no step between them. A pointwise one gives the same.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from ..pixels import to_float, to_uint8
from .chunking import Axis, Place, scaled, windowed, within

DECODE_TILE, DECODE_OVERLAP = 128, 32
"""In latents, along both axes: frames of up to 1024 x 1024 pixels of Stable Diffusion's autoencoder are decoded whole,
those of its x4 upscaler up to 512 x 512."""
FRAMES_AT_ONCE = 4
"""Frames whose pixels are held in float at once."""


def to_pixels(frames: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W) in [-1, 1] on the device."""
    return to_float(torch.tensor(np.asarray(frames)).to(device))


def check_frames(frames: np.ndarray | Tensor, count: int, what: str) -> None:
    """Raise ConfigError unless `frames` are uint8 (count, F, H, W, 3)."""
    if np.asarray(frames).dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ConfigError(f"{what}: got {frames.dtype} {tuple(frames.shape)}, wanted uint8 (B, F, H, W, 3)")
    if len(frames) != count:
        raise ConfigError(f"got {count} prompts and {len(frames)} clips: wanted one prompt for each clip, at least 1")


def encode(
    autoencoder: Autoencoder, frames: np.ndarray | Tensor, device: torch.device, tile: int = DECODE_TILE
) -> Tensor:
    """Frames uint8 (B, F, H, W, 3) -> the posteriors' means (B, C, F, H / stride, W / stride), float32.

    Raises ConfigError if H or W is no multiple of the stride.
    """
    stride = autoencoder.stride
    batch, count, height, width = frames.shape[:4]
    check_size(height, width, stride)
    axes = tiles(height // stride, width // stride, tile)

    def encoded(pixels: Tensor, place: Place) -> Tensor:
        return autoencoder.encode(within(pixels, scaled(place, (stride, stride)))).float()

    flat = np.asarray(frames).reshape(batch * count, height, width, 3)
    chunks = (flat[start : start + FRAMES_AT_ONCE] for start in range(0, len(flat), FRAMES_AT_ONCE))
    latents = [windowed(partial(encoded, to_pixels(chunk, device)), axes) for chunk in chunks]
    return torch.cat(latents).unflatten(0, (batch, count)).transpose(1, 2)


def decode(autoencoder: Autoencoder, latents: Tensor, tile: int = DECODE_TILE) -> np.ndarray:
    """Latents (B, C, F, h, w) -> frames uint8 (B, F, h * stride, w * stride, 3), in the memory of the host."""
    stride = autoencoder.stride
    axes = tiles(latents.shape[3], latents.shape[4], tile)

    def decoded(chunk: Tensor, place: Place) -> Tensor:
        return autoencoder.decode(within(chunk, place)).float()

    frames = []
    for chunk in latents.transpose(1, 2).flatten(0, 1).split(FRAMES_AT_ONCE):
        pixels = windowed(partial(decoded, chunk), axes, scales=(stride, stride))
        frames.append(to_uint8(pixels).cpu().numpy())
    return np.concatenate(frames).reshape(len(latents), -1, *frames[0].shape[1:])


def tiles(height: int, width: int, tile: int) -> list[Axis]:
    """The overlapping tiles of a frame of latents, rows and columns."""
    overlap = min(DECODE_OVERLAP, tile // 4)
    return [Axis(length, tile, overlap, name="decode_tile") for length in (height, width)]


def check_size(height: int, width: int, stride: int) -> None:
    """Raise ConfigError unless both sides are positive multiples of the stride."""
    if height < 1 or width < 1 or height % stride or width % stride:
        raise ConfigError(f"height x width: got {height} x {width}, wanted positive multiples of {stride}")
