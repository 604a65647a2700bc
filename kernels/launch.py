"""Launching a kernel: on a GPU, in Triton's interpreter, or only noting down what would be launched.

The notes are what a compile without a GPU needs: run a host function on meta tensors under `recording`, and every
launch that it would make at these shapes is kept, with the very configuration that a run would use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.compiler.compiler import max_shared_mem


class Chip(NamedTuple):
    """What a kernel's configuration may depend on."""

    capability: tuple[int, int]
    """CUDA's compute capability, major and minor."""
    multiprocessors: int
    shared: int
    """Bytes of shared memory that one program may have at most."""

    @property
    def feeds_from_shared(self) -> bool:
        """Whether matrix units read their operands from shared memory: on data centre chips from Hopper on.

        Elsewhere, on GeForce Blackwell too, they read registers, as Ampere's do.
        """
        return self.capability[0] in (9, 10)


CHIPS = {
    chip.capability: chip
    for chip in (
        Chip((8, 0), 108, 166_912),  # A100
        Chip((8, 6), 72, 101_376),  # A10, A40, RTX 3090
        Chip((8, 9), 142, 101_376),  # L4, L40S, RTX 4090
        Chip((9, 0), 132, 232_448),  # H100, H200
        Chip((10, 0), 148, 232_448),  # B200
        Chip((12, 0), 170, 101_376),  # RTX 5090, RTX PRO 6000
    )
}
"""What the kernels are compiled for where there is no GPU. Shared memory: CUDA's programming guide, table of compute
capabilities, less the 1 KiB of each program that CUDA keeps for itself."""
INTERPRETED = Chip((9, 0), 2, 232_448)
"""In the interpreter: few programs, so that loops over work are walked more than once."""


@dataclass(frozen=True)
class Launch:
    """One noted launch: what `launch` was called with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass
class Recording:
    """The launches noted so far, as they would be on `chip`."""

    chip: Chip
    launches: list[Launch] = field(default_factory=list)


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recording(chip: Chip) -> Iterator[Recording]:
    """Let `launch` only take notes within the block, and `chip_of` answer `chip`."""
    noted = Recording(chip)
    token = _recording.set(noted)
    try:
        yield noted
    finally:
        _recording.reset(token)


def chip_of(tensor: Tensor) -> Chip:
    """Return the chip that kernels on `tensor` run on."""
    noted = _recording.get()
    if noted is not None:
        return noted.chip
    return _cuda_chip(tensor.device.index) if tensor.is_cuda else INTERPRETED


@lru_cache
def _cuda_chip(index: int) -> Chip:
    """Return what a GPU is; asked for once, not at every launch."""
    properties = torch.cuda.get_device_properties(index)
    return Chip((properties.major, properties.minor), properties.multi_processor_count, max_shared_mem(index))


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, num_stages: int = 1, **constants: Any
) -> None:
    """Run kernel[grid](*args, **constants), or note it: `constants` are the tl.constexpr parameters."""
    noted = _recording.get()
    if noted is not None:
        noted.launches.append(Launch(kernel, grid, args, constants, num_warps, num_stages))
    elif args[0].is_cuda:
        with torch.cuda.device(args[0].device):
            kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)
    else:
        assert triton.knobs.runtime.interpret, "kernels on the CPU need TRITON_INTERPRET=1 before triton is imported"
        kernel[grid](*args, **constants)
