"""Attention over the frame axis, with RoPE on q and k and a bias per pair of frames (paper, section 4.1).

Every (batch, position, head) is one short sequence of F frames. RoPE turns interleaved pairs of the first `rotary_dim`
dims of each head by the frame index (Su et al., 2021); the remaining dims pass through.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import kernels_for


def temporal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rotary_dim: int = 32,
    theta: float = 10000.0,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """q, k, v (B, F, S, heads, head_dim), strided views welcome; bias (heads, F, F) or None -> shaped like q.

    `scale` defaults to head_dim ** -0.5. Softmax in float32 (float64 for float64); the output has q's dtype and is
    contiguous. Deterministic, differentiable in q, k, v and bias. The kernels take up to 64 frames and head_dim 32 to
    160; they read views of one packed product as they lie, and q, k, v of different strides from contiguous copies.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _temporal_attention([q, k, v], bias, rotary_dim, theta, scale, backend)


def temporal_attention_packed(
    qkv: Tensor,
    *,
    rotary_dim: int = 32,
    theta: float = 10000.0,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """`temporal_attention` of qkv (B, F, S, 3, heads, head_dim) -> (B, F, S, heads, head_dim).

    The gradient of qkv is written packed: unlike those of three views it needs no stacking.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    return _temporal_attention([qkv], bias, rotary_dim, theta, scale, backend)


@torch.library.custom_op("lavie::temporal_attention", mutates_args=())
def _temporal_attention(
    qkv: list[Tensor], bias: Tensor | None, rotary_dim: int, theta: float, scale: float, backend: str
) -> Tensor:
    q, k, v = _three(qkv)
    turn = _turn(q, rotary_dim, theta)
    kernels = kernels_for("temporal_attention", backend, q, k, v, bias, rotary_dim)
    if kernels is not None:
        return kernels.forward(qkv, bias, turn, scale)
    p = _probabilities(rotate(_sequences(q), turn), rotate(_sequences(k), turn), bias, scale, q.shape)
    return q.new_empty(q.shape).copy_(_unsequences(torch.bmm(p, _sequences(v)), q.shape))


@_temporal_attention.register_fake
def _(qkv, bias, rotary_dim, theta, scale, backend):
    q, _, _ = _three(qkv)
    return q.new_empty(q.shape)


@register_flop_formula(torch.ops.lavie.temporal_attention)
def _(qkv_shapes, *args, out_shape, **kwargs) -> int:
    return 4 * math.prod(out_shape) * out_shape[1]  # two products of two FLOPs, over F frames for each element


@torch.library.custom_op("lavie::temporal_attention_backward", mutates_args=())
def _temporal_attention_backward(
    do: Tensor, qkv: list[Tensor], bias: Tensor | None, rotary_dim: int, theta: float, scale: float, backend: str
) -> list[Tensor]:
    """The gradients of qkv, then that of the bias if there is one."""
    q, k, v = _three(qkv)
    turn = _turn(q, rotary_dim, theta)
    kernels = kernels_for("temporal_attention", backend, q, k, v, bias, rotary_dim)
    if kernels is not None:
        return kernels.backward(do, qkv, bias, turn, scale)
    q_, k_, v_, do_ = rotate(_sequences(q), turn), rotate(_sequences(k), turn), _sequences(v), _sequences(do)
    p = _probabilities(q_, k_, bias, scale, q.shape)
    dp = torch.bmm(do_, v_.transpose(1, 2))
    ds = p * (dp - (dp * p).sum(-1, keepdim=True))
    gradients = [x.new_empty(x.shape) for x in qkv]
    dq, dk, dv = _three(gradients)
    back = None if turn is None else turn.conj()  # the transpose of a rotation turns back
    dq.copy_(_unsequences(rotate(torch.bmm(ds, k_) * scale, back), q.shape))
    dk.copy_(_unsequences(rotate(torch.bmm(ds.transpose(1, 2), q_) * scale, back), k.shape))
    dv.copy_(_unsequences(torch.bmm(p.transpose(1, 2), do_), v.shape))
    return gradients if bias is None else [*gradients, ds.unflatten(0, (-1, q.shape[3])).sum(0).to(bias.dtype)]


@_temporal_attention_backward.register_fake
def _(do, qkv, bias, rotary_dim, theta, scale, backend):
    return [x.new_empty(x.shape) for x in (qkv if bias is None else [*qkv, bias])]


def _setup_context(ctx, inputs, output):
    qkv, bias, *ctx.settings = inputs
    ctx.tensors = len(qkv)
    ctx.save_for_backward(*qkv, *([] if bias is None else [bias]))


def _backward(ctx, do):
    saved = list(ctx.saved_tensors)
    qkv, bias = saved[: ctx.tensors], saved[-1] if len(saved) > ctx.tensors else None
    gradients = _temporal_attention_backward(do, qkv, bias, *ctx.settings)
    return gradients[: ctx.tensors], None if bias is None else gradients[-1], *[None] * len(ctx.settings)


_temporal_attention.register_autograd(_backward, setup_context=_setup_context)


def rotary_frequencies(rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """The rotary_dim / 2 angular frequencies theta ** (-2i / rotary_dim), float64, radians per frame."""
    return theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / max(rotary_dim, 1))


def rotate(x: Tensor, turn: Tensor | None) -> Tensor:
    """Turn the interleaved pairs (x0, x1), (x2, x3), ... of x (..., F, D): each pair is a complex number, multiplied by
    `turn` (F, R / 2), complex, R <= D. The last D - R dims pass through, and all of them if `turn` is None."""
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
    """exp(i angle) of each frame index and frequency, complex (F, rotary_dim / 2), or None without RoPE."""
    dtype = torch.complex128 if q.dtype == torch.float64 else torch.complex64
    return _turns(q.shape[1], rotary_dim, theta, dtype, q.device) if rotary_dim else None


@lru_cache(maxsize=16)
def _turns(frames: int, rotary_dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    frame = torch.arange(frames, dtype=torch.float64, device=device)
    angle = frame[:, None] * rotary_frequencies(rotary_dim, theta).to(device)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float, shape: torch.Size) -> Tensor:
    """softmax(scale q k^T + bias) over (sequences, F, F)."""
    scores = torch.bmm(q, k.transpose(1, 2)) * scale
    if bias is not None:
        scores = (scores.unflatten(0, (-1, shape[3])) + bias).flatten(0, 1)
    return scores.softmax(-1)


def _three(qkv: list[Tensor]) -> list[Tensor]:
    """q, k, v (B, F, S, heads, D) of themselves, or of one packed (B, F, S, 3, heads, D)."""
    return list(qkv[0].unbind(3)) if len(qkv) == 1 else list(qkv)


def _sequences(x: Tensor) -> Tensor:
    """(B, F, S, heads, D) -> (B * S * heads, F, D) in the dtype of the softmax."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.permute(0, 2, 3, 1, 4).flatten(0, 2)


def _unsequences(x: Tensor, shape: torch.Size) -> Tensor:
    """(B * S * heads, F, D) -> `shape`, (B, F, S, heads, D), a view."""
    batch, _, positions, heads, _ = shape
    return x.unflatten(0, (batch, positions, heads)).permute(0, 3, 1, 2, 4)
