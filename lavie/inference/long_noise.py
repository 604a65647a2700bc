"""Noise of long clips that repeats from window to window, so that windows of one clip show one scene.

A diffusion network reads the layout of a scene out of its initial noise. Windows of independent noise agree where they
overlap and nowhere else; windows of the same noise in another order agree throughout, and move differently (FreeNoise,
Qiu et al. 2024, section 3.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def repeating_noise(shape: Sequence[int], window: int, generator: torch.Generator) -> Tensor:
    """Return noise whose frames from `window` on are those of one window earlier, shuffled in small groups.

    Args:
        shape: (C, F, h, w). Up to `window` frames, the noise is what `torch.randn` draws of that shape.
        window: frames that the network sees at once. Groups are a quarter of it, as in the paper 4 of 16, or 2 frames
            at least, since a group of one cannot be shuffled.
        generator: the source of noise and order.

    Returns:
        float32 of the shape, on the CPU; each frame is standard normal.
    """
    channels, frames, height, width = shape
    noise = torch.randn(channels, min(frames, window), height, width, generator=generator)
    if frames <= window:
        return noise
    group = max(2, window // 4)
    parts = [noise]
    for begin in range(window, frames, group):
        earlier = torch.cat(parts, 1)[:, begin - window : begin - window + group]
        parts.append(earlier[:, torch.randperm(earlier.shape[1], generator=generator)])
    return torch.cat(parts, 1)[:, :frames]
