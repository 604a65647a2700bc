"""Benchmark of GroupNorm + SiLU at the norms of the three networks.

    python -m lavie.kernels.bench.group_norm_silu

Leaves are clips (B, F, C, H, W) in the memory (B, F, H, W, C). The released network holds (B, C, F, H, W) contiguous:
its way starts from leaves in that order, and its layout copies elsewhere are not counted against it.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.backend import Backend
from ...ops.group_norm_silu import group_norm_silu
from ..group_norm_silu import cost
from .check import Case, Way
from .harness import main

GROUPS = 32


class Norm(NamedTuple):
    """One norm of a network, and the clips that it normalises."""

    name: str
    """The level of a network that has it."""
    batch: int
    """Clips."""
    frames: int
    channels: int
    height: int
    width: int
    resnet: bool
    """Whether it is a resnet's, over a clip and with SiLU, or a transformer's, over a frame and without."""

    @property
    def pooled(self) -> int:
        """The frames that share statistics."""
        return self.frames if self.resnet else 1

    @property
    def eps(self) -> float:
        """The epsilon of the network's norms of this kind."""
        return 1e-5 if self.resnet else 1e-6


def make(norm: Norm, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return x (B, F, C, H, W), channels last, and weight and bias (C,)."""
    x = torch.randn(norm.batch, norm.frames, norm.height, norm.width, norm.channels, device=device).to(dtype)
    x = x.movedim(-1, 2)
    weight, bias = (1 + 0.1 * torch.randn(2, norm.channels, device=device)).to(dtype)
    return [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]


def ours(x: Tensor, weight: Tensor, bias: Tensor, norm: Norm, backend: Backend) -> Tensor:
    """Run `lavie.ops.group_norm_silu` on a backend."""
    y = group_norm_silu(
        x.flatten(0, 1),
        weight,
        bias,
        groups=GROUPS,
        eps=norm.eps,
        frames=norm.pooled,
        silu=norm.resnet,
        backend=backend,
    )
    return y.unflatten(0, x.shape[:2])


def plain(x: Tensor, weight: Tensor, bias: Tensor, norm: Norm) -> Tensor:
    """Compute the formula in plain PyTorch, for a compiler."""
    v = x.float().unflatten(2, (GROUPS, -1))
    over = (1, 3, 4, 5) if norm.resnet else (3, 4, 5)
    centred = v - v.mean(over, keepdim=True)
    normalised = (centred * (centred.square().mean(over, keepdim=True) + norm.eps).rsqrt()).flatten(2, 3)
    y = normalised * weight.float()[:, None, None] + bias.float()[:, None, None]
    return (F.silu(y) if norm.resnet else y).to(x.dtype)


def torch_norm(x: Tensor, weight: Tensor, bias: Tensor, norm: Norm) -> Tensor:
    """Run PyTorch's GroupNorm on x (N, C, ...), and SiLU if the norm has it."""
    y = F.group_norm(x, GROUPS, weight, bias, norm.eps)
    return F.silu(y) if norm.resnet else y


def library(x: Tensor, weight: Tensor, bias: Tensor, norm: Norm) -> Tensor:
    """Run PyTorch's kernels. In our memory they see channels last, of three dimensions where a clip is pooled."""
    if norm.resnet:
        return torch_norm(x.transpose(1, 2), weight, bias, norm).transpose(1, 2)
    return torch_norm(x.flatten(0, 1), weight, bias, norm).unflatten(0, x.shape[:2])


def case(norm: Norm) -> Case:
    """Return the case of a norm: ours, the released network's way, a compiler, and PyTorch's kernels on our memory."""
    x = torch.empty(
        norm.batch * norm.frames, norm.channels, norm.height, norm.width, dtype=torch.bfloat16, device="meta"
    )
    weight, bias = x.new_empty(2, norm.channels)
    released = (0, 2, 1, 3, 4) if norm.resnet else (0, 1, 2, 3, 4)
    definition, library_of = partial(ours, norm=norm, backend="torch"), partial(library, norm=norm)
    ways = {
        "triton": Way(partial(ours, norm=norm, backend="triton")),
        "eager": Way(library_of, orders=(released,)),
        "compile": Way(partial(plain, norm=norm), compiled=True),
        "channels_last nn.GroupNorm": Way(library_of),
    }
    kind = "resnet" if norm.resnet else "transformer"
    name = f"{norm.name}, {kind}, C={norm.channels}, B={norm.batch}"
    return Case(name, partial(make, norm), ways, definition, cost(x, weight, bias, GROUPS), roundings=2)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the norms of the base network at 16 frames and the largest of super-resolution.

    In a dry run (`tiny`) two small norms, for the interpreter.
    """
    if tiny:
        yield case(Norm("tiny", 1, 2, 64, 3, 5, True))
        yield case(Norm("tiny", 1, 2, 64, 3, 5, False))
        return
    levels = (
        ((40, 64), (320, 640, 960)),
        ((20, 32), (640, 1280, 1920)),
        ((10, 16), (1280, 2560)),
        ((5, 8), (1280, 2560)),
    )
    for batch in (1, 4):
        for level, (size, widths) in enumerate(levels):
            for channels in widths:
                yield case(Norm(f"base level {level}", batch, 16, channels, *size, True))
            if level < 3:
                yield case(Norm(f"base level {level}", batch, 16, widths[0], *size, False))
    yield case(Norm("super-resolution 320x512", 1, 8, 256, 320, 512, True))


if __name__ == "__main__":
    main("group_norm_silu", cases)
