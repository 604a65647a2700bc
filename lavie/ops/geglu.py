"""GEGLU (Shazeer, 2020), the value times GELU of the gate, and the linear layer behind it.

The two are one step of autograd that keeps what GEGLU is given. Separate operations keep that, GELU of the gates and
the product as well, which are as large together.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import kernels_for, under_autocast


def geglu_linear(x: Tensor, weight: Tensor, bias: Tensor, *, backend: str = "auto") -> Tensor:
    """Apply GEGLU and then a linear layer, differentiable in all three tensors.

    Args:
        x: (..., 2 * inner), contiguous: the values, then their gates.
        weight: (C, inner).
        bias: (C,).
        backend: which implementation of GEGLU runs, see `kernels_for`.

    Returns:
        (..., C).
    """
    if under_autocast(x):
        return separate_operations(x, weight, bias)
    return _GegluLinear.apply(x, weight, bias, backend)


def separate_operations(x: Tensor, weight: Tensor, bias: Tensor, *, backend: str = "torch") -> Tensor:
    """Define `geglu_linear`, whose arguments and result these are, an operation after the other on any backend."""
    value, gate = x.chunk(2, -1)
    return F.linear(value * F.gelu(gate), weight, bias)


class _GegluLinear(torch.autograd.Function):
    """`geglu_linear` with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        """Compute the output, and keep x."""
        ctx.backend = backend
        ctx.save_for_backward(x, weight)
        return F.linear(geglu(x, backend), weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Return the gradients that are needed; GEGLU's output is computed again beside its input's gradient."""
        x, weight = ctx.saved_tensors
        _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dx, y = geglu_backward(dy @ weight, x, ctx.backend)
        rows = dy.flatten(0, -2)
        dweight = rows.t() @ y.flatten(0, -2) if needs_weight else None
        return dx, dweight, rows.sum(0) if needs_bias else None, None


@torch.library.custom_op("lavie::geglu", mutates_args=())
def geglu(x: Tensor, backend: str) -> Tensor:
    """Return the first half of x (..., 2 * inner) times GELU of the second one, (..., inner)."""
    kernels = kernels_for("geglu", backend, x)
    if kernels is not None:
        return kernels.forward(x)
    value, gate = x.chunk(2, -1)
    return F.gelu(gate).mul_(value)


@geglu.register_fake
def _(x: Tensor, backend: str) -> Tensor:
    """Return an empty result of the right shape, for compilers."""
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("lavie::geglu_backward", mutates_args=())
def geglu_backward(dy: Tensor, x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Return the gradient of x from that of the output, dy (..., inner), and the output again."""
    kernels = kernels_for("geglu", backend, x)
    if kernels is not None:
        return kernels.backward(dy, x)
    value, gate = x.chunk(2, -1)
    dx = torch.empty_like(x)
    dvalue, dgate = dx.chunk(2, -1)
    y = F.gelu(gate)
    torch.mul(dy, y, out=dvalue)
    torch.ops.aten.gelu_backward.grad_input(dy * value, gate, grad_input=dgate)
    return dx, y.mul_(value)


@geglu_backward.register_fake
def _(dy: Tensor, x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Return empty results of the right shapes, for compilers."""
    return torch.empty_like(x), torch.empty_like(dy)
