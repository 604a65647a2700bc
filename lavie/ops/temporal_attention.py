"""Attention over the frame axis, with RoPE on q and k and a bias per pair of frames (paper, section 4.1).

Every (batch, position, head) is one short sequence of F frames. RoPE turns interleaved pairs of the first `rotary_dim`
dims of each head by the frame index (Su et al., 2021); the remaining dims pass through.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import kernels_for


def temporal_attention(
    qkv: Tensor,
    *,
    rotary_dim: int = 32,
    theta: float = 10000.0,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attend, at each position and in each head, from every frame of a clip to all its frames.

    Softmax in float32 (float64 for float64). Deterministic, and differentiable in qkv and bias.

    Args:
        qkv: (B, F, S, 3, heads, head_dim), what one product with the weights of q, k and v gives; a strided view is
            welcome. The kernels take up to 64 frames and a head_dim of 32 to 160.
        rotary_dim: dims of each head that RoPE turns; 0 for none.
        theta: base of RoPE's frequencies.
        bias: (heads, F, F), added to the scores, or None.
        scale: factor of the scores before the bias; default head_dim ** -0.5.
        backend: which implementation runs, see `kernels_for`.

    Returns:
        A contiguous (B, F, S, heads, head_dim) in qkv's dtype. The gradient of qkv is written packed, as qkv is.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    return _temporal_attention(qkv, bias, rotary_dim, theta, scale, backend)


@torch.library.custom_op("lavie::temporal_attention", mutates_args=())
def _temporal_attention(
    qkv: Tensor, bias: Tensor | None, rotary_dim: int, theta: float, scale: float, backend: str
) -> Tensor:
    """Compute `temporal_attention`."""
    q, k, v = qkv.unbind(3)
    turn = _turn(q, rotary_dim, theta)
    kernels = kernels_for("temporal_attention", backend, qkv, bias, rotary_dim)
    if kernels is not None:
        return kernels.forward(qkv, bias, turn, scale)
    p = _probabilities(rotate(_sequences(q), turn), rotate(_sequences(k), turn), bias, scale, q.shape)
    return q.new_empty(q.shape).copy_(_unsequences(torch.bmm(p, _sequences(v)), q.shape))


@_temporal_attention.register_fake
def _(qkv: Tensor, *_others: Any) -> Tensor:
    """Return an empty result of the right shape, for compilers."""
    return qkv.new_empty(qkv[:, :, :, 0].shape)


@register_flop_formula(torch.ops.lavie.temporal_attention)
def _(qkv_shape: torch.Size, *_args: Any, out_shape: torch.Size, **_kwargs: Any) -> int:
    """Return the FLOPs of the two matrix products."""
    return 4 * math.prod(out_shape) * out_shape[1]  # two products of two FLOPs, over F frames for each element


@torch.library.custom_op("lavie::temporal_attention_backward", mutates_args=())
def _temporal_attention_backward(
    do: Tensor, qkv: Tensor, bias: Tensor | None, rotary_dim: int, theta: float, scale: float, backend: str
) -> list[Tensor]:
    """Return the gradient of qkv, then that of the bias if there is one; `do` is the output's gradient."""
    q, k, v = qkv.unbind(3)
    turn = _turn(q, rotary_dim, theta)
    kernels = kernels_for("temporal_attention", backend, qkv, bias, rotary_dim)
    if kernels is not None:
        return kernels.backward(do, qkv, bias, turn, scale)

    # The probabilities again, then the gradient of the scores through the softmax.
    q_, k_, v_, do_ = rotate(_sequences(q), turn), rotate(_sequences(k), turn), _sequences(v), _sequences(do)
    p = _probabilities(q_, k_, bias, scale, q.shape)
    dp = torch.bmm(do_, v_.transpose(1, 2))
    ds = p * (dp - (dp * p).sum(-1, keepdim=True))

    gradient = qkv.new_empty(qkv.shape)
    dq, dk, dv = gradient.unbind(3)
    back = None if turn is None else torch.conj_physical(turn)  # the transpose of a rotation turns back
    dq.copy_(_unsequences(rotate(torch.bmm(ds, k_) * scale, back), q.shape))
    dk.copy_(_unsequences(rotate(torch.bmm(ds.transpose(1, 2), q_) * scale, back), k.shape))
    dv.copy_(_unsequences(torch.bmm(p.transpose(1, 2), do_), v.shape))
    return [gradient] if bias is None else [gradient, ds.unflatten(0, (-1, q.shape[3])).sum(0).to(bias.dtype)]


@_temporal_attention_backward.register_fake
def _(do: Tensor, qkv: Tensor, bias: Tensor | None, *_others: Any) -> list[Tensor]:
    """Return empty gradients of the right shapes, for compilers."""
    return [x.new_empty(x.shape) for x in (qkv, bias) if x is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep qkv and the bias for the backward pass."""
    qkv, bias, *ctx.settings = inputs
    ctx.save_for_backward(qkv, bias)


def _backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients in the order of the operation's arguments."""
    qkv, bias = ctx.saved_tensors
    dqkv, *dbias = _temporal_attention_backward(do, qkv, bias, *ctx.settings)
    return dqkv, dbias[0] if dbias else None, *[None] * len(ctx.settings)


_temporal_attention.register_autograd(_backward, setup_context=_setup_context)


def rotary_frequencies(rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """Return the rotary_dim / 2 angular frequencies theta ** (-2i / rotary_dim), float64, in radians per frame."""
    return theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / max(rotary_dim, 1))


def turn_frames(x: Tensor, rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """Turn each head of x (B, F, S, heads, head_dim) by RoPE at its frame, as `temporal_attention` turns q and k."""
    if not rotary_dim:
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    return rotate(wide.movedim(1, -2), _turn(x, rotary_dim, theta)).movedim(-2, 1).to(x.dtype)


def rotate(x: Tensor, turn: Tensor | None) -> Tensor:
    """Turn the interleaved pairs (x0, x1), (x2, x3), ... of x by the rotation of their frame.

    Args:
        x: (..., F, D).
        turn: complex (F, R / 2), R <= D: the factor of each pair, taken as a complex number; None: no rotation.

    Returns:
        A tensor like x. Its last D - R dims are those of x.
    """
    if turn is None:
        return x
    rotary_dim = 2 * turn.shape[-1]
    pairs = x[..., :rotary_dim]
    if x.shape[-1] % 2:
        pairs = pairs.contiguous()  # complex numbers lie at even distances
    pairs = torch.view_as_complex(pairs.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turn).flatten(-2)
    return turned if rotary_dim == x.shape[-1] else torch.cat([turned, x[..., rotary_dim:]], dim=-1)


def _turn(q: Tensor, rotary_dim: int, theta: float) -> Tensor | None:
    """Return exp(i angle) of each frame index and frequency, complex (F, rotary_dim / 2), or None without RoPE."""
    dtype = torch.complex128 if q.dtype == torch.float64 else torch.complex64
    return _turns(q.shape[1], rotary_dim, theta, dtype, q.device) if rotary_dim else None


@lru_cache(maxsize=16)
def _turns(frames: int, rotary_dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Compute what `_turn` returns; every layer asks for the same few."""
    frame = torch.arange(frames, dtype=torch.float64, device=device)
    angle = frame[:, None] * rotary_frequencies(rotary_dim, theta).to(device)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float, shape: torch.Size) -> Tensor:
    """Return softmax(scale q k^T + bias), (sequences, F, F); `shape`: (B, F, S, heads, D)."""
    scores = torch.bmm(q, k.transpose(1, 2)) * scale
    if bias is not None:
        scores = (scores.unflatten(0, (-1, shape[3])) + bias).flatten(0, 1)
    return scores.softmax(-1)


def _sequences(x: Tensor) -> Tensor:
    """Return x (B, F, S, heads, D) as sequences (B * S * heads, F, D) in the dtype of the softmax."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.permute(0, 2, 3, 1, 4).flatten(0, 2)


def _unsequences(x: Tensor, shape: torch.Size) -> Tensor:
    """Return sequences (B * S * heads, F, D) as a view of `shape`, (B, F, S, heads, D)."""
    batch, _, positions, heads, _ = shape
    return x.unflatten(0, (batch, positions, heads)).permute(0, 3, 1, 2, 4)
