"""Convert pixels between 8-bit levels, as files hold them, and the floats that networks see."""

import torch


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels (..., H, W, 3) as float32 (..., 3, H, W) in [-1, 1], on the same device."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Return float pixels (..., 3, H, W) as uint8 (..., H, W, 3), on the same device.

    [-1, 1] becomes 0 to 255. Values are rounded to the nearest level, and those outside the range become its ends.
    """
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
