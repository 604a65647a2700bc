"""A configuration and random entries for caches of 4 frames of 16 x 24 pixels."""

from pathlib import Path

import torch
from torch import Tensor

from lavie.config.data import DataConfig

MADE_WITH = {"data.fps": 8.0, "vae/": "abc"}
"""What the entries of `filled` say that they were made with."""
ROW_SHAPES = {"mean": (4, 3, 2, 3), "std": (4, 3, 2, 3), "text": (1, 5, 6)}
"""The shapes of the tensors of a clip's entry."""


def config(**changes) -> DataConfig:
    """Return the configuration of the cache, with changes: 2 cuts of each sample, 4 frames of 16 x 24 pixels."""
    values = {"train": [], "num_frames": 4, "num_images": 1, "height": 16, "width": 24, "fps": 8, "cuts": 2}
    values["cache"] = "somewhere"
    return DataConfig(**{**values, **changes})


def random_entries(count: int, frames: int = 4, seed: int = 0, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return the tensors of `count` entries of `frames` frames each: Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (frames if len(shape) == 4 else 1, *shape[1:]) for name, shape in ROW_SHAPES.items()}
    return {name: torch.randn(count, *shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def flip(path: Path, offset: int) -> None:
    """Flip one bit of the byte at an offset of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
