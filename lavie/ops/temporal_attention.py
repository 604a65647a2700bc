"""Attention over the frame axis, with RoPE on q and k and a bias per pair of frames (paper, section 4.1).

Every (batch, position, head) is one short sequence of F frames. RoPE turns interleaved pairs of the first `rotary_dim`
dims of each head by the frame index (Su et al., 2021); the remaining dims pass through.
"""

import torch
from torch import Tensor


def temporal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rotary_dim: int = 32,
    theta: float = 10000.0,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """q, k, v (B, F, S, heads, head_dim), strided views welcome; bias (heads, F, F) or None -> shaped like q.

    `scale` defaults to head_dim ** -0.5. Softmax in float32 (float64 for float64); the output has q's dtype.
    Deterministic, differentiable in q, k, v and bias.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _temporal_attention(q, k, v, bias, rotary_dim, theta, scale)


@torch.library.custom_op("lavie::temporal_attention", mutates_args=())
def _temporal_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rotary_dim: int, theta: float, scale: float
) -> Tensor:
    turn = _turns(q.shape[1], rotary_dim, theta, q)
    p = _probabilities(rotate(_sequences(q), turn), rotate(_sequences(k), turn), bias, scale, q.shape)
    return _unsequences(torch.bmm(p, _sequences(v)), q)


@_temporal_attention.register_fake
def _(q, k, v, bias, rotary_dim, theta, scale):
    return q.new_empty(q.shape)


@torch.library.custom_op("lavie::temporal_attention_backward", mutates_args=())
def _temporal_attention_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rotary_dim: int, theta: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    turn = _turns(q.shape[1], rotary_dim, theta, q)
    q_, k_, v_, do_ = rotate(_sequences(q), turn), rotate(_sequences(k), turn), _sequences(v), _sequences(do)
    p = _probabilities(q_, k_, bias, scale, q.shape)
    dv = torch.bmm(p.transpose(1, 2), do_)
    dp = torch.bmm(do_, v_.transpose(1, 2))
    ds = p * (dp - (dp * p).sum(-1, keepdim=True))
    dq = rotate(torch.bmm(ds, k_) * scale, turn.conj())  # the transpose of a rotation turns back
    dk = rotate(torch.bmm(ds.transpose(1, 2), q_) * scale, turn.conj())
    dbias = ds.unflatten(0, (-1, q.shape[3])).sum(0).to(q.dtype if bias is None else bias.dtype)
    return _unsequences(dq, q), _unsequences(dk, k), _unsequences(dv, v), dbias


@_temporal_attention_backward.register_fake
def _(do, q, k, v, bias, rotary_dim, theta, scale):
    frames, heads = q.shape[1], q.shape[3]
    dbias = q.new_empty((heads, frames, frames), dtype=q.dtype if bias is None else bias.dtype)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


def _setup_context(ctx, inputs, output):
    q, k, v, bias, ctx.rotary_dim, ctx.theta, ctx.scale = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(q, k, v, *([bias] if ctx.has_bias else []))


def _backward(ctx, do):
    q, k, v, *rest = ctx.saved_tensors
    bias = rest[0] if ctx.has_bias else None
    dq, dk, dv, dbias = _temporal_attention_backward(do, q, k, v, bias, ctx.rotary_dim, ctx.theta, ctx.scale)
    return dq, dk, dv, dbias if ctx.has_bias else None, None, None, None


_temporal_attention.register_autograd(_backward, setup_context=_setup_context)


def rotary_frequencies(rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """The rotary_dim / 2 angular frequencies theta ** (-2i / rotary_dim), float64, radians per frame."""
    return theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / max(rotary_dim, 1))


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the interleaved pairs (x0, x1), (x2, x3), ... of x (..., F, D): each pair is a complex number, multiplied by
    `turn` (F, R / 2), complex, R <= D. The last D - R dims pass through."""
    rotary_dim = 2 * turn.shape[-1]
    if rotary_dim == 0:
        return x
    pairs = x[..., :rotary_dim]
    if x.shape[-1] % 2:
        pairs = pairs.contiguous()  # complex numbers lie at even distances
    pairs = torch.view_as_complex(pairs.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turn).flatten(-2)
    return turned if rotary_dim == x.shape[-1] else torch.cat([turned, x[..., rotary_dim:]], dim=-1)


def _turns(frames: int, rotary_dim: int, theta: float, like: Tensor) -> Tensor:
    """exp(i angle) of each frame index and frequency, complex (F, rotary_dim / 2)."""
    angle = torch.arange(frames, dtype=torch.float64)[:, None] * rotary_frequencies(rotary_dim, theta)
    dtype = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return torch.polar(torch.ones_like(angle), angle).to(like.device, dtype)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float, shape: torch.Size) -> Tensor:
    """softmax(scale q k^T + bias) over (sequences, F, F)."""
    scores = torch.bmm(q, k.transpose(1, 2)) * scale
    if bias is not None:
        scores = (scores.unflatten(0, (-1, shape[3])) + bias).flatten(0, 1)
    return scores.softmax(-1)


def _sequences(x: Tensor) -> Tensor:
    """(B, F, S, heads, D) -> (B * S * heads, F, D) in the dtype of the softmax."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.permute(0, 2, 3, 1, 4).flatten(0, 2)


def _unsequences(x: Tensor, like: Tensor) -> Tensor:
    """(B * S * heads, F, D) -> the shape and dtype of `like` (B, F, S, heads, D), contiguous."""
    batch, _, positions, heads, _ = like.shape
    return x.unflatten(0, (batch, positions, heads)).permute(0, 3, 1, 2, 4).to(like.dtype).contiguous()
