"""Benchmark of GEGLU and the linear layer behind it, at the feed-forward layers of the networks.

    python -m lavie.kernels.bench.geglu

Leaves are what GEGLU is given, and the layer's weight and bias. Separate operations keep GELU of the gates and the
product for the backward pass, ours computes them again: the column of peaks shows what that saves.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.geglu import geglu_linear, separate_operations
from ..cost import Cost
from ..geglu import cost
from .check import Case, Way
from .harness import main


class Layer(NamedTuple):
    """A feed-forward layer of a network."""

    name: str
    rows: int
    """Tokens of all frames."""
    channels: int


def make(layer: Layer, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return x (rows, 8 * channels), and the weight and the bias of the layer behind it."""
    inner = 4 * layer.channels
    x = torch.randn(layer.rows, 2 * inner, device=device)
    weight = torch.randn(layer.channels, inner, device=device) * inner**-0.5
    bias = 0.1 * torch.randn(layer.channels, device=device)
    return [t.to(dtype).requires_grad_() for t in (x, weight, bias)]


def case(layer: Layer) -> Case:
    """Return the case of a layer: ours on both backends, separate operations, and a compiler on these."""
    x = torch.empty(layer.rows, 8 * layer.channels, dtype=torch.bfloat16, device="meta")
    moved, flops = cost(x), 8 * layer.rows * layer.channels**2
    floors = Cost(moved.forward_bytes, moved.backward_bytes, flops, 2 * flops)
    ways = {
        "triton": Way(partial(geglu_linear, backend="triton")),
        "torch": Way(partial(geglu_linear, backend="torch")),
        "eager": Way(separate_operations),
        "compile": Way(separate_operations, compiled=True),
    }
    return Case(
        f"{layer.name}, C={layer.channels}", partial(make, layer), ways, separate_operations, floors, roundings=3
    )


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the layers of the base network at 16 + 4 frames, or a small one for the interpreter if `tiny`."""
    if tiny:
        yield case(Layer("tiny", 30, 8))
        return
    for batch in (1, 4):
        for level, (positions, channels) in enumerate(((2560, 320), (640, 640), (160, 1280))):
            yield case(Layer(f"base level {level}, B={batch}", 20 * batch * positions, channels))


if __name__ == "__main__":
    main("geglu", cases)
