"""GEGLU: the value times GELU of the gate, and its backward pass, which gives the output again, in one launch each.

A row of x holds `inner` values and then their gates. A program takes BLOCK elements of the output, one after the other
through all rows; GELU is the exact one, by erf.

In the kernels v is a value, z its gate, and phi the share of a normal distribution below z.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .launch import launch

BLOCK = 1024
"""Elements of a program: eight for each of 128 threads, in accesses of 128 bits."""


@triton.jit
def _load(x, inner, count, BLOCK: tl.constexpr):
    """Load this program's values and gates, and return where they lie, and which exist."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    at = i + i // inner * inner
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(x + at + inner, mask=inside, other=0.0).to(tl.float32)
    return i, at, inside, v, z


@triton.jit
def _forward_kernel(
    x,  # (rows, 2 * inner)
    y,  # (rows, inner), written
    inner, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the output."""
    i, _at, inside, v, z = _load(x, inner, count, BLOCK)
    phi = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
    tl.store(y + i, (v * z * phi).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy,  # (rows, inner)
    x,  # (rows, 2 * inner)
    dx,  # like x, written
    y,  # like dy, written
    inner, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of values and gates, and the output again."""
    i, at, inside, v, z = _load(x, inner, count, BLOCK)
    g = tl.load(dy + i, mask=inside, other=0.0).to(tl.float32)
    phi = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
    tl.store(dx + at, (g * z * phi).to(dx.dtype.element_ty), mask=inside)
    tl.store(dx + at + inner, (g * v * (phi + z * density)).to(dx.dtype.element_ty), mask=inside)
    tl.store(y + i, (v * z * phi).to(y.dtype.element_ty), mask=inside)


def unsupported(x: Tensor) -> str | None:
    """Return why the kernels cannot run on x, or None."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"x is {x.dtype}, wanted float32, bfloat16 or float16"
    return "x is empty, wanted at least one row" if x.numel() == 0 else None


def forward(x: Tensor) -> Tensor:
    """Return y (..., inner) of x (..., 2 * inner)."""
    x = x.contiguous()
    inner = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], inner)
    launch(_forward_kernel, (triton.cdiv(y.numel(), BLOCK),), x, y, inner, y.numel(), BLOCK=BLOCK)
    return y


def backward(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return dx like x, and y again, from dy like y."""
    x, dy = x.contiguous(), dy.contiguous()
    dx, y = torch.empty_like(x), torch.empty_like(dy)
    grid = (triton.cdiv(y.numel(), BLOCK),)
    launch(_backward_kernel, grid, dy, x, dx, y, x.shape[-1] // 2, y.numel(), BLOCK=BLOCK)
    return dx, y


def cost(x: Tensor) -> Cost:
    """Return the floors: forward reads x and writes half as much, backward moves x and its gradient, dy and y."""
    return Cost(x.nbytes * 3 // 2, 3 * x.nbytes, 0, 0)
