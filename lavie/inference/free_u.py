"""FreeU (Si et al. 2024): on the way up, half of the main channels are raised, and slow waves of skips lowered."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.unet import VideoUNet

LEVELS = 2
"""Levels on the way up, from the coarsest, that the factors are for."""
SLOWEST = 1
"""The frequencies of the skips that are lowered go from minus this up to but without this, in waves per frame along an
axis: FreeU's code has them so, one sign and not the other."""
LARGEST = 10.0
"""The largest factor: FreeU's own are below 2, and layers of 16 bits overflow by large ones."""
NEUTRAL = (1.0, 1.0, 1.0, 1.0)
"""The factors that change nothing."""


@contextmanager
def free_u(network: nn.Module, factors: Sequence[float]) -> Iterator[None]:
    """Let a network compute with FreeU while the block runs; its weights stay as they are.

    Args:
        network: a VideoUNet of at least two levels.
        factors: (b1, b2, s1, s2): of the main path and of the skips, each for the coarsest level on the way up and the
            one after it. Si et al. give 1.3, 1.4, 0.9, 0.2 for Stable Diffusion 1.4. All 1: nothing is changed.

    Raises:
        ConfigError: the factors are not four numbers of 0 to LARGEST, or the network has no such levels.
    """
    b, s = check_factors(factors)
    with ExitStack() as stack:
        if (*b, *s) != NEUTRAL:
            if not isinstance(network, VideoUNet) or len(network.up_blocks) < LEVELS:
                raise ConfigError(f"freeu: the network has no {LEVELS} levels on the way up: wanted 1, 1, 1, 1")
            for level in range(LEVELS):
                block: Any = network.up_blocks[level]
                for resnet in block.resnets:
                    hook = resnet.register_forward_pre_hook(partial(_changed, b[level], s[level]))
                    stack.callback(hook.remove)
        yield


def check_factors(factors: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (b1, b2) and (s1, s2). Raises ConfigError unless they are four numbers of 0 to LARGEST."""
    if len(factors) != 2 * LEVELS or not all(0 <= factor <= LARGEST for factor in factors):
        raise ConfigError(
            f"freeu: got {list(factors)}, wanted b1, b2, s1, s2 of 0 to {LARGEST:g}, as [1.3, 1.4, 0.9, 0.2]"
        )
    b1, b2, s1, s2 = factors
    return (b1, b2), (s1, s2)


def _changed(b: float, s: float, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs of a residual block with the main path and the skip changed."""
    x, time, frames, skip = inputs
    half = x.shape[1] // 2
    raised = torch.cat([x[:, :half] * b, x[:, half:]], 1)
    return raised.to(x.dtype), time, frames, lowered(skip, s)


def lowered(x: Tensor, factor: float) -> Tensor:
    """Return x (N, C, H, W) with its slowest waves multiplied by a factor; of 1 it is x itself."""
    if factor == 1:
        return x
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    rows, columns = (slice(length // 2 - SLOWEST, length // 2 + SLOWEST) for length in x.shape[-2:])
    spectrum[..., rows, columns] *= factor
    return torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=(-2, -1)), dim=(-2, -1)).real.to(x.dtype)
