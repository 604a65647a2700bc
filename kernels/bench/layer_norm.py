"""Benchmark of a residual sum, its LayerNorm and the linear layer behind it, at the transformers of the networks.

    python -m lavie.kernels.bench.layer_norm

Leaves are the tokens, what is added to them, and the parameters of norm and layer. The result is the sum plus the
layer's output, so that in backward a gradient passes the layer by, as in the networks.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.norm_linear import norm_linear, separate_operations
from ..cost import Cost
from ..layer_norm import cost
from .check import Case, Way
from .harness import main

EPS = 1e-5


class Layer(NamedTuple):
    """A layer of a transformer."""

    name: str
    rows: int
    """Tokens of all frames."""
    channels: int


def make(layer: Layer, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return tokens (rows, C) and what is added to them, weight and bias (C,) of the norm, and those of the layer."""
    c = layer.channels
    tokens = torch.randn(2, layer.rows, c, device=device)
    norm = 0.1 * torch.randn(2, c, device=device)
    weight, bias = torch.randn(c, c, device=device) * c**-0.5, 0.1 * torch.randn(c, device=device)
    leaves = (*tokens, 1 + norm[0], norm[1], weight, bias)
    return [t.to(dtype).clone().requires_grad_() for t in leaves]


def step(function: Callable[..., tuple[Tensor, Tensor]], x: Tensor, added: Tensor, *parameters: Tensor) -> Tensor:
    """Return the sum of x and `added` plus the layer's output."""
    norm_weight, norm_bias, weight, bias = parameters
    total, y = function(x, added, len(x), norm_weight, norm_bias, EPS, weight, bias)
    return total + y


def case(layer: Layer) -> Case:
    """Return the case of a layer: ours on both backends, separate operations, and a compiler on these."""
    x = torch.empty(layer.rows, layer.channels, dtype=torch.bfloat16, device="meta")
    moved, flops = cost(x), 2 * layer.rows * layer.channels**2
    floors = Cost(moved.forward_bytes, moved.backward_bytes, flops, 2 * flops)
    definition = partial(step, separate_operations)
    ways = {
        "triton": Way(partial(step, partial(norm_linear, backend="triton"))),
        "torch": Way(partial(step, partial(norm_linear, backend="torch"))),
        "eager": Way(definition),
        "compile": Way(definition, compiled=True),
    }
    return Case(f"{layer.name}, C={layer.channels}", partial(make, layer), ways, definition, floors, roundings=3)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the layers of the base network at 16 + 4 frames, or a small one for the interpreter if `tiny`."""
    if tiny:
        yield case(Layer("tiny", 30, 24))
        return
    for batch in (1, 4):
        for level, (positions, channels) in enumerate(((2560, 320), (640, 640), (160, 1280))):
            yield case(Layer(f"base level {level}, B={batch}", 20 * batch * positions, channels))


if __name__ == "__main__":
    main("layer_norm", cases)
