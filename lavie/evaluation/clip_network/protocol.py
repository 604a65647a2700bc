"""How frames reach CLIP, as data, and the steps on pixels.

Implementations differ in all of it: the crop loses 37 % of a frame of 512 x 320, and torch's resizing does not smooth
where PIL's does.
"""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from ...config.base import Positive, Strict
from ...errors import DataError
from ..measured import short_hash

CODE = 1
"""Raised when the same protocol would give other numbers than before."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""The mean and the deviation of the pixels that OpenAI's CLIP was trained on: red, green, blue, in [0, 1]."""

Triple = tuple[float, float, float]
Deviation = tuple[Positive, Positive, Positive]


class FrameProtocol(Strict):
    """Which frames of a clip CLIP sees, and how."""

    frames: Annotated[int, Field(ge=1)] | None = None
    """So many, spread evenly from the first to the last; one is the middle one; null for all."""
    fit: Literal["crop", "stretch"] = "crop"
    """crop: the short side becomes `side`, and the middle is cut out. stretch: both sides do, whatever the aspect."""
    side: Annotated[int, Field(ge=1)] = 224
    """Pixels, as the network has them."""
    interpolation: Literal["bicubic, antialiased, on uint8 (PIL)"] = "bicubic, antialiased, on uint8 (PIL)"
    mean: Triple = MEAN
    deviation: Deviation = DEVIATION


def hash_of(**parts: Any) -> str:
    """Return the first 16 digits of the SHA-256 of everything that moves a number."""
    return short_hash({"code": CODE, **parts})


def chosen(count: int, protocol: FrameProtocol) -> np.ndarray:
    """Return the indices of the frames that are taken of a clip of `count`, ascending.

    Raises:
        DataError: the clip has fewer than the protocol wants.
    """
    if protocol.frames is None:
        return np.arange(count)
    if count < protocol.frames:
        raise DataError(f"{count} frames: the protocol wants {protocol.frames} (--frames)")
    if protocol.frames == 1:
        return np.array([count // 2])
    return np.arange(protocol.frames) * (count - 1) // (protocol.frames - 1)


def prepare(frames: np.ndarray, protocol: FrameProtocol) -> Tensor:
    """Return frames as CLIP takes them.

    Args:
        frames: uint8 (N, H, W, 3).
        protocol: the steps.

    Returns:
        float32 (N, 3, side, side), less the mean and over the deviation.
    """
    pictures = np.stack([_fitted(Image.fromarray(frame), protocol) for frame in frames])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (protocol.mean, protocol.deviation))
    return (x - mean) / deviation


def _fitted(picture: Image.Image, protocol: FrameProtocol) -> np.ndarray:
    """Return a picture of the protocol's size, uint8 (side, side, 3)."""
    side = protocol.side
    if protocol.fit == "stretch":
        return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
    short = min(picture.size)
    width, height = (side * length // short for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))
