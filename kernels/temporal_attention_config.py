"""How the kernels of temporal attention run: the tile, the warps and the loops, by length, head dim and dtype."""

from typing import NamedTuple

import triton
from torch import Tensor


class Config(NamedTuple):
    """How sequences of some length and type run. Chosen for no spills on any chip, see resources.csv."""

    rows: int
    """Frames of a tile: a power of two, at least 16."""
    block: int
    """Sequences of a program."""
    num_warps: int
    """Warps of a program."""
    chunk: int
    """Head dims that are in registers at a time."""
    unroll: bool
    """Whether the loop over chunks is unrolled."""
    per_multiprocessor: int
    """Programs that loop over blocks: a multiple of the 3, 4 or 6 (of 64 rows, 1, 2 or 4) that run at a time."""


def config_of(q: Tensor, bias: Tensor | None) -> Config:
    """Return how sequences of q (B, F, S, heads, D) run."""
    rows, half = max(triton.next_power_of_2(q.shape[1]), 16), q.element_size() == 2
    if rows == 16 and not half:
        return Config(16, 2, 2, 16, False, 24)
    if rows == 16:  # narrow chunks take the fewest registers, but 80 dims spill with them, and 128 where unrolled
        wide = q.shape[-1] in (80, 128)
        return Config(16, 4, 4, 32 if wide else 16, q.shape[-1] != 128, 12)
    if not half:
        return Config(rows, 1, 4, 16, False, 4)
    if rows == 32 or bias is not None:
        return Config(rows, 1, rows // 8, 16, False, 4)
    return Config(rows, 1, 4, 32, True, 4)
