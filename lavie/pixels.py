"""Pixels as 8-bit levels, and as the floats that networks see."""

import torch


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1], on the same device."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1
