"""LayerNorm of a sum, and its backward pass, which adds another gradient and gives the norm's output again.

A program holds whole rows, BLOCK_R of them in a tile of BLOCK_C channels, a power of two. Forward it takes one tile;
backward it walks several, and adds up the gradients of weight and bias in registers: a table of one row for each
program, whose sum, in a fixed order, is left to PyTorch.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cost import Cost
from .launch import chip_of, launch

TILE = 2048
"""Elements of a tile, unless a row is longer."""
WIDEST = 4096
"""Channels of a row at most."""
PROGRAMS = 4
"""Programs for each multiprocessor that walk the rows in backward."""
EXTENTS = ["count", "added_count", "rows"]
"""Arguments that a kernel is not compiled anew for, whatever their values."""


@triton.jit
def _places(start, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the rows from `start`, (R, 1), the channels, (1, C), and the offsets of their elements, (R, C)."""
    r = start + tl.arange(0, BLOCK_R)[:, None]
    c = tl.arange(0, BLOCK_C)[None, :]
    return r, c, r.to(tl.int64) * C + c


@triton.jit
def _normalised(v, c, eps, C: tl.constexpr):
    """Return rows v (R, C) centred and scaled to a variance of 1, and the scale, (R, 1)."""
    centred = v - tl.sum(v, 1, keep_dims=True) / C
    if v.shape[1] != C:
        centred = tl.where(c < C, centred, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / C + eps)
    return centred * rstd, rstd


@triton.jit(do_not_specialize=EXTENTS)
def _forward_kernel(
    x,  # (count, C)
    added,  # (added_count, C) or None
    total,  # (count, C), the sum, written; None if there is nothing to add
    weight, bias,  # (C,)
    n,  # (rows, C), written
    count, added_count, rows,
    eps,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the sum of a tile of rows, as far as there is any, and its norm."""
    r, c, at = _places(tl.program_id(0) * BLOCK_R, C, BLOCK_R, BLOCK_C)
    v = tl.load(x + at, mask=(r < count) & (c < C), other=0.0).to(tl.float32)
    if added is not None:  # the norm is that of the sum as it is kept, rounded
        v += tl.load(added + at, mask=(r < added_count) & (c < C), other=0.0).to(tl.float32)
        rounded = v.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=(r < count) & (c < C))
        v = rounded.to(tl.float32)
    x_hat, _rstd = _normalised(v, c, eps, C)
    weight_c = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    bias_c = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(n + at, (x_hat * weight_c + bias_c).to(n.dtype.element_ty), mask=(r < rows) & (c < C))


@triton.jit(do_not_specialize=EXTENTS)
def _backward_kernel(
    total,  # (count, C)
    dn,  # (rows, C)
    dtotal,  # (count, C) or None
    weight, bias,  # (C,)
    dx,  # (count, C), written
    n,  # (rows, C), written
    dweight, dbias,  # (programs, C) float32, written
    count, rows,
    eps,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient of every num_programs-th tile of the sum, its norm again, and sums for weight and bias.

    Rows from `rows` on have no norm: their dn is read as zero, and what is left of the gradient is dtotal.
    """
    c = tl.arange(0, BLOCK_C)[None, :]
    weight_c = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    bias_c = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    sum_w = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_b = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(tl.program_id(0) * BLOCK_R, count, tl.num_programs(0) * BLOCK_R):
        r, _c, at = _places(start, C, BLOCK_R, BLOCK_C)
        exists, normed = (r < count) & (c < C), (r < rows) & (c < C)
        v = tl.load(total + at, mask=exists, other=0.0).to(tl.float32)
        g = tl.load(dn + at, mask=normed, other=0.0).to(tl.float32)
        x_hat, rstd = _normalised(v, c, eps, C)
        tl.store(n + at, (x_hat * weight_c + bias_c).to(n.dtype.element_ty), mask=normed)
        sum_w += g * x_hat
        sum_b += g
        g *= weight_c
        mean_g, mean_gx = tl.sum(g, 1, keep_dims=True) / C, tl.sum(g * x_hat, 1, keep_dims=True) / C
        g = (g - mean_g - x_hat * mean_gx) * rstd
        if dtotal is not None:
            g += tl.load(dtotal + at, mask=exists, other=0.0).to(tl.float32)
        tl.store(dx + at, g.to(dx.dtype.element_ty), mask=exists)

    out = tl.program_id(0) * C + c
    tl.store(dweight + out, tl.sum(sum_w, 0, keep_dims=True), mask=c < C)
    tl.store(dbias + out, tl.sum(sum_b, 0, keep_dims=True), mask=c < C)


def unsupported(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Return why the kernels cannot run on these tensors, or None."""
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} is {tensor.dtype}, wanted float32, bfloat16 or float16"
    if x.numel() == 0 or x.shape[-1] > WIDEST:
        return f"x has the shape {tuple(x.shape)}, wanted at least one row, of at most {WIDEST} channels"
    return None


def _tile(channels: int) -> dict[str, Any]:
    """Return the constants of a launch over rows of so many channels, and its warps."""
    width = triton.next_power_of_2(channels)
    warps = 4 if width <= TILE // 2 else 8
    return {"C": channels, "BLOCK_R": max(TILE // width, 1), "BLOCK_C": width, "num_warps": warps}


def forward(x: Tensor, added: Tensor | None, rows: int, weight: Tensor, bias: Tensor, eps: float) -> list[Tensor]:
    """Return the norm of the first rows of x (R, C) plus `added` (R', C), (rows, C), and the sum if there is any."""
    x = x.contiguous()
    n, total = x.new_empty(rows, x.shape[1]), None if added is None else torch.empty_like(x)
    added = None if added is None else added.contiguous()
    tile = _tile(x.shape[1])
    grid = (triton.cdiv(rows if added is None else len(x), tile["BLOCK_R"]),)
    extents = (len(x), 0 if added is None else len(added), rows)
    launch(_forward_kernel, grid, x, added, total, weight, bias, n, *extents, eps, **tile)
    return [n] if total is None else [n, total]


def backward(
    dn: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the sum (R, C), the norm again (rows, C), and those of weight and bias, (2, C)."""
    dn, total = dn.contiguous(), total.contiguous()
    dtotal = None if dtotal is None else dtotal.contiguous()
    dx, n, tile = torch.empty_like(total), torch.empty_like(dn), _tile(total.shape[1])
    programs = min(triton.cdiv(len(total), tile["BLOCK_R"]), PROGRAMS * chip_of(total).multiprocessors)
    sums = total.new_empty(2, programs, total.shape[1], dtype=torch.float32)
    tensors = (total, dn, dtotal, weight, bias, dx, n, sums[0], sums[1])
    launch(_backward_kernel, (programs,), *tensors, len(total), len(dn), eps, **tile)
    return dx, n, sums.sum(1).to(weight.dtype)


def cost(x: Tensor) -> Cost:
    """Return the floors of a sum of x with as much: forward reads two and writes two, backward reads three and
    writes two."""
    return Cost(4 * x.nbytes, 5 * x.nbytes, 0, 0)
