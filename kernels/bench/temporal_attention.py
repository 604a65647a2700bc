"""Benchmark of temporal attention at the shapes of the three networks.

    python -m lavie.kernels.bench.temporal_attention

Leaves are the packed product (B, F, S, 3, heads, head_dim) and, where the network has RoPE and a bias, the bias
(heads, F, F) and RoPE's cosines and sines.

The cases "beside attention alone" set ours, RoPE included, against libraries that neither rotate nor permute: they
start from q, k and v that lie as they like best. In these cases q and k are zero in the dims that RoPE turns, so that
all compute the same.
"""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.backend import Backend
from ...ops.temporal_attention import rotary_frequencies, temporal_attention
from ..cost import Cost
from ..temporal_attention import cost
from .check import Case, Way
from .harness import main

SEQUENCES = (0, 2, 3, 1, 4)
"""(B, F, S, heads, D) -> (B, S, heads, F, D)."""
POSITIONS = (0, 2, 1, 3, 4)
"""(B, F, S, heads, D) -> (B, S, F, heads, D)."""


class Shape(NamedTuple):
    """Temporal attention at one level of a network."""

    name: str
    batch: int
    frames: int
    positions: int
    heads: int
    head_dim: int
    positional: bool  # RoPE and bias, or neither

    @property
    def rotary_dim(self) -> int:
        """Dims of a head that RoPE turns."""
        return 32 if self.positional else 0


def make(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return the packed product, and where the network has them the bias, cosines and sines."""
    size = (shape.batch, shape.frames, shape.positions, 3, shape.heads, shape.head_dim)
    qkv = torch.randn(size, device=device).to(dtype).requires_grad_()
    if not shape.positional:
        return [qkv]
    frame = torch.arange(shape.frames, device=device)[:, None]
    angle = (frame * rotary_frequencies(shape.rotary_dim).to(device)).repeat_interleave(2, -1)
    return [qkv, make_bias(shape, device, dtype), angle.cos().float(), angle.sin().float()]


def make_bias(shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Draw a bias (heads, F, F) that wants a gradient."""
    return torch.randn(shape.heads, shape.frames, shape.frames, device=device).to(dtype).requires_grad_()


def ours(qkv: Tensor, bias: Tensor | None = None, *_angles: Tensor, shape: Shape, backend: Backend) -> Tensor:
    """Run `lavie.ops.temporal_attention` on a backend; it computes the angles itself."""
    return temporal_attention(qkv, bias=bias, rotary_dim=shape.rotary_dim, backend=backend)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE as it is usually written: slice, turn pairs by a quarter, multiply, add, concatenate."""
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.unflatten(-1, (-1, 2)).unbind(-1)
    quarter = torch.stack([-second, first], -1).flatten(-2)
    return torch.cat([(turning * cos + quarter * sin).to(x.dtype), rest], -1)


def eager(qkv: Tensor, bias: Tensor | None = None, *angles: Tensor, shape: Shape) -> Tensor:
    """Attend as the released network does, one operation after the other."""
    q, k, v = (x.permute(SEQUENCES).flatten(0, 2) for x in qkv.unbind(3))
    q = q * shape.head_dim**-0.5
    if angles:
        q, k = rotated(q, *angles), rotated(k, *angles)
    scores = torch.bmm(q, k.transpose(1, 2))
    if bias is not None:
        scores = (scores.unflatten(0, (-1, shape.heads)) + bias).flatten(0, 1)
    scores = scores - scores.amax(-1, keepdim=True).detach()
    o = torch.bmm(scores.softmax(-1), v)
    return o.unflatten(0, (shape.batch, -1, shape.heads)).permute(0, 3, 1, 2, 4).contiguous()


def fused(qkv: Tensor, bias: Tensor | None = None, *angles: Tensor) -> Tensor:
    """RoPE, permutes and scaled_dot_product_attention, for a compiler."""
    q, k, v = (x.permute(SEQUENCES).flatten(0, 1) for x in qkv.unbind(3))
    if angles:
        q, k = rotated(q, *angles), rotated(k, *angles)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return o.unflatten(0, (qkv.shape[0], -1)).permute(0, 3, 1, 2, 4).contiguous()


def case(shape: Shape) -> Case:
    """Return the case of a shape with all that the network does there: ours, the released way, and a compiler."""
    definition = partial(ours, shape=shape, backend="torch")
    ways = {
        "triton": Way(partial(ours, shape=shape, backend="triton")),
        "eager": Way(partial(eager, shape=shape)),
        "compile": Way(fused, compiled=True),
    }
    name = f"{shape.name}, B={shape.batch}"
    return Case(name, partial(make, shape), ways, definition, floor(shape), roundings=4)


def floor(shape: Shape) -> Cost:
    """Return the least that a shape costs."""
    meta = torch.device("meta")
    qkv, *rest = make(shape, meta, torch.bfloat16)
    return cost(qkv, rest[0] if rest else None)


# --- beside attention alone


def make_apart(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return q, k and v, which are views of one packed tensor, and the bias."""
    qkv = torch.randn(shape.batch, shape.frames, shape.positions, 3, shape.heads, shape.head_dim, device=device)
    qkv[:, :, :, :2, :, : shape.rotary_dim] = 0
    leaves = list(qkv.to(dtype).unbind(3))
    if shape.positional:
        leaves.append(make_bias(shape, device, dtype))
    return [x.requires_grad_() for x in leaves]


class Packed(torch.autograd.Function):
    """The packed tensor (B, F, S, 3, heads, D) that q, k and v are views of, without a copy either way."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the packed tensor, from the strides of q and the distance of k from it."""
        batch, frames, positions, heads, head_dim = q.shape
        size = (batch, frames, positions, 3, heads, head_dim)
        strides = (*q.stride()[:3], k.storage_offset() - q.storage_offset(), *q.stride()[3:])
        return q.detach().as_strided(size, strides)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of q, k and v, views of the packed one."""
        return gradient.unbind(3)


def ours_apart(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, shape: Shape) -> Tensor:
    """Run the kernels on the packed tensor behind q, k and v."""
    return temporal_attention(Packed.apply(q, k, v), bias=bias, rotary_dim=shape.rotary_dim, backend="triton")


def definition_apart(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, shape: Shape) -> Tensor:
    """Run plain PyTorch on q, k and v of any strides."""
    return temporal_attention(torch.stack([q, k, v], 3), bias=bias, rotary_dim=shape.rotary_dim, backend="torch")


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Run PyTorch's scaled_dot_product_attention on contiguous (B * S, heads, F, D)."""
    batch = len(q)
    q, k, v = (x.permute(SEQUENCES).flatten(0, 1) for x in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return o.unflatten(0, (batch, -1)).permute(0, 3, 1, 2, 4)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run flash-attn's kernels on contiguous (B * S, F, heads, D)."""
    from flash_attn import flash_attn_func

    laid = (x.permute(POSITIONS).flatten(0, 1) for x in (q, k, v))
    return flash_attn_func(*laid).unflatten(0, (q.shape[0], -1)).transpose(1, 2)


def case_alone(shape: Shape) -> Case:
    """Return the case of a shape beside attention alone: ours, PyTorch's library, and flash-attn where it can run."""
    ways = {
        "triton": Way(partial(ours_apart, shape=shape)),
        "sdpa": Way(sdpa, orders=(SEQUENCES,) * 3),
    }
    if find_spec("flash_attn") and not shape.positional:  # it has no bias
        ways["flash-attn"] = Way(flash, orders=(POSITIONS,) * 3)
    name = f"{shape.name}, B={shape.batch}, beside attention alone"
    return Case(
        name, partial(make_apart, shape), ways, partial(definition_apart, shape=shape), floor(shape), roundings=4
    )


def shapes(tiny: bool) -> Iterator[Shape]:
    """Yield the shapes of the base network, of interpolation, and of super-resolution at 8 frames.

    In a dry run (`tiny`) two small shapes, for the interpreter.
    """
    if tiny:
        yield Shape("tiny", 2, 4, 3, 2, 40, True)
        yield Shape("tiny, 20 frames, no RoPE or bias", 1, 20, 2, 2, 40, False)
        return
    levels = ((40 * 64, 40), (20 * 32, 80), (10 * 16, 160), (5 * 8, 160))
    for batch in (1, 4):
        for level, (positions, head_dim) in enumerate(levels):
            yield Shape(f"base level {level}", batch, 16, positions, 8, head_dim, True)
    for level, (positions, head_dim) in enumerate(levels[:3]):
        yield Shape(f"interpolation level {level}", 1, 61, positions, 8, head_dim, False)
    for size, head_dim in (((160, 256), 64), ((80, 128), 64), ((40, 64), 128)):
        yield Shape(f"super-resolution {size[0]}x{size[1]}", 1, 8, size[0] * size[1], 8, head_dim, True)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield both cases of each of the `shapes`."""
    for shape in shapes(tiny):
        yield case(shape)
        yield case_alone(shape)


if __name__ == "__main__":
    main("temporal_attention", cases)
