"""Random numbers as pure functions of (seed, purpose, position), without generator state to save or to share.

A training step draws noise, timestep, caption dropout, crop and clip start of a sample from the sample's *global*
position in the run, so the same sample sees the same numbers on any number of ranks and after any resume.
"""

import hashlib

import numpy as np
import torch


def key64(seed: int, purpose: str, *position: int) -> int:
    """Return a 64-bit key, 0 <= key < 2**64, that depends on every bit of its arguments."""
    text = f"{seed}/{purpose}/" + "/".join(str(p) for p in position)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def torch_generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Return PyTorch's CPU generator for one purpose at one position."""
    return torch.Generator().manual_seed(key64(seed, purpose, *position) >> 1)  # manual_seed takes 63 bits


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Return a NumPy generator (Philox) for one purpose at one position."""
    return np.random.Generator(np.random.Philox(key64(seed, purpose, *position)))


def uniform(seed: int, purpose: str, *position: int) -> float:
    """Return one number in [0, 1) for one purpose at one position."""
    return key64(seed, purpose, *position) / 2**64
