"""Convolution over the frame axis, and the residual block of two convolutions (paper, section 4.1, "pseudo-3D").

The temporal half of a pseudo-3D convolution: nn.Conv3d with a kernel (k, 1, 1) and zero padding, on memory
(B, F, S, C), S = H * W. Absent frames are left out, not padded in; the time embedding and the residual are added
before the result is rounded and written.
"""

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import group_norm_silu as norms
from .backend import kernels_for

STATISTICS_ROWS = 128
"""Positions of a frame that one entry of the statistics covers."""

Affine: TypeAlias = tuple[Tensor, Tensor]
"""The weight and the bias of a convolution or of a norm."""


def pseudo3d_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    time: Tensor | None = None,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y[:, f] = bias + time + residual[:, f] + sum over taps j of x[:, f + j - k // 2] weight[:, :, j]^T.

    x (B, F, S, C_in) and residual (B, F, S, C_out), strided views welcome; weight (C_out, C_in, k) or, as in nn.Conv3d,
    (C_out, C_in, k, 1, 1), k odd; bias (C_out,); time (B, C_out), for every frame and position. Returns a contiguous
    (B, F, S, C_out) in x's dtype; the kernels sum in float32. Deterministic, differentiable in every tensor.
    """
    weight = _temporal(x, weight, bias, time, residual)
    return _pseudo3d_conv(x, weight, bias, time, residual, False, backend)[0]


def pseudo3d_conv_with_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    time: Tensor | None = None,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """pseudo3d_conv, and what the norm after it would have to read its output for.

    The second tensor, (2, B, F, blocks, C_out) in float32 and without a gradient, holds per channel the mean of each
    STATISTICS_ROWS positions of a frame, and the sum of squares about that mean; `norm_statistics` combines them.
    """
    weight = _temporal(x, weight, bias, time, residual)
    return _pseudo3d_conv(x, weight, bias, time, residual, True, backend)


def norm_statistics(
    statistics: Tensor, positions: int, *, groups: int, eps: float, pooled: bool = True
) -> tuple[Tensor, Tensor]:
    """The mean and rstd (B * F, groups) of a GroupNorm over a clip's frames (`pooled`) or each frame by itself.

    `statistics` is that of pseudo3d_conv_with_statistics, for frames of `positions`. Means of unequal weight are
    combined by the rule of Chan et al. (1979): nothing cancels.
    """
    means, squares = statistics.unflatten(-1, (groups, -1))  # (B, F, blocks, groups, C / groups) each
    over = (1, 2, 4) if pooled else (2, 4)
    start = STATISTICS_ROWS * torch.arange(means.shape[2], device=means.device)
    count = (positions - start).clamp(max=STATISTICS_ROWS).to(means.dtype)[:, None, None]
    total = (count.expand_as(means)).sum(over, keepdim=True)
    mean = (means * count).sum(over, keepdim=True) / total
    variance = (squares + count * (means - mean).square()).sum(over, keepdim=True) / total
    shape = (*means.shape[:2], 1, groups, 1)
    return mean.expand(shape).flatten(0, 1).flatten(1), (variance + eps).rsqrt().expand(shape).flatten(0, 1).flatten(1)


def pseudo3d_block(
    x: Tensor,
    norm1: Affine,
    conv1: Affine,
    norm2: Affine,
    conv2: Affine,
    *,
    frames: int,
    groups: int,
    eps: float,
    time: Tensor | None = None,
    pooled: bool = True,
    backend: str = "auto",
) -> Tensor:
    """x + conv2(silu(norm2(conv1(silu(norm1(x))) + time))): a residual block as one operation.

    x (B * frames, C, H, W), channels last; time (B, C_middle). A convolution whose weight is that of an nn.Conv2d is
    spatial (cuDNN on GPUs), one with the weight of an nn.Conv3d (C_out, C_in, k, 1, 1) temporal; so the same function
    is the pseudo-3D block, both temporal blocks of the super-resolution network, and a plain 2-D one. Norm statistics
    pool a clip's frames, or are each frame's own. Returns a tensor like x.

    Keeps x and the first convolution's output for the backward pass: two activations, where separate operations keep
    four (each norm's input and each convolution's). Normalised activations are computed again, one norm pass each.
    """
    tensors = (*norm1, *conv1, *norm2, *conv2)
    return _block(x, *tensors, time, frames, groups, eps, frames if pooled else 1, backend)[0]


def _temporal(x: Tensor, weight: Tensor, bias: Tensor | None, time: Tensor | None, residual: Tensor | None) -> Tensor:
    """The weight as (C_out, C_in, k); raises ValueError if shapes do not fit."""
    if weight.ndim not in (3, 5) or weight.shape[3:].numel() != 1 or weight.shape[2] % 2 == 0:
        raise ValueError(f"weight {tuple(weight.shape)}: wanted (C_out, C_in, k) or (C_out, C_in, k, 1, 1), k odd")
    outputs, inputs = weight.shape[:2]
    wanted = (
        ("x", x, (*x.shape[:3], inputs)),
        ("bias", bias, (outputs,)),
        ("time", time, (x.shape[0], outputs)),
        ("residual", residual, (*x.shape[:3], outputs)),
    )
    for name, tensor, shape in wanted:
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} {tuple(tensor.shape)}: wanted {tuple(shape)} with weight {tuple(weight.shape)}")
    return weight.flatten(2)


# The temporal convolution


@torch.library.custom_op("lavie::pseudo3d_conv", mutates_args=())
def _pseudo3d_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    time: Tensor | None,
    residual: Tensor | None,
    statistics: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    kernels = kernels_for("pseudo3d_conv", backend, x, weight, bias, time, residual)
    if kernels is not None:
        return kernels.forward(x, weight, bias, time, residual, statistics)
    y = convolve(x, weight)
    for added in (bias, None if time is None else time[:, None, None], residual):
        if added is not None:
            y += added
    return y, block_statistics(y) if statistics else y.new_empty(0, dtype=_sum_dtype(y))


@_pseudo3d_conv.register_fake
def _(x, weight, bias, time, residual, statistics, backend):
    y = x.new_empty(*x.shape[:3], weight.shape[0])
    blocks = (x.shape[2] + STATISTICS_ROWS - 1) // STATISTICS_ROWS
    shape = (2, *x.shape[:2], blocks, weight.shape[0]) if statistics else (0,)
    return y, y.new_empty(shape, dtype=_sum_dtype(y))


@register_flop_formula(torch.ops.lavie.pseudo3d_conv)
def _(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x_shape[:3]) * math.prod(weight_shape)


@torch.library.custom_op("lavie::pseudo3d_conv_weight_gradient", mutates_args=())
def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, backend: str) -> Tensor:
    kernels = kernels_for("pseudo3d_conv", backend, x, dy)
    gradient = (kernels.weight_gradient if kernels is not None else correlate)(dy, x, weight.shape[2])
    return torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(gradient)


@_weight_gradient.register_fake
def _(dy, x, weight, backend):
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    x, weight, bias, time, _, _, ctx.backend = inputs
    ctx.dtypes = [None if t is None else t.dtype for t in (bias, time)]
    ctx.set_materialize_grads(False)  # the statistics get no gradient: build no zeros for them
    ctx.save_for_backward(x, weight)


def _backward(ctx, dy, _dstatistics):
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, needs_time, needs_residual, *_ = ctx.needs_input_grad
    dx = _transposed(dy, weight, ctx.backend) if needs_x else None
    dweight = _weight_gradient(dy, x, weight, ctx.backend) if needs_weight else None
    dbias = dtime = None
    if needs_bias or needs_time:
        dtime = dy.sum((1, 2), dtype=_sum_dtype(dy))
        dbias = dtime.sum(0).to(ctx.dtypes[0]) if needs_bias else None
        dtime = dtime.to(ctx.dtypes[1]) if needs_time else None
    return dx, dweight, dbias, dtime, dy if needs_residual else None, None, None


_pseudo3d_conv.register_autograd(_backward, setup_context=_setup_context)


def _transposed(dy: Tensor, weight: Tensor, backend: str) -> Tensor:
    """The gradient of x: the same convolution, its taps reversed and its channels exchanged."""
    return _pseudo3d_conv(dy, weight.transpose(0, 1).flip(2), None, None, None, False, backend)[0]


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, F, S, C_in), weight (C_out, C_in, k) -> (B, F, S, C_out): a matrix product per clip and tap."""
    taps = weight.permute(2, 1, 0).to(x.dtype).contiguous()
    y = x.new_zeros(*x.shape[:3], weight.shape[0])
    for tap, (here, there) in zip(taps, _shifts(x.shape[1], len(taps)), strict=True):
        for clip, out in zip(x[:, there], y[:, here], strict=True):
            rows = out.flatten(0, 1)
            torch.addmm(rows, clip.flatten(0, 1), tap, out=rows)
    return y


def correlate(dy: Tensor, x: Tensor, taps: int) -> Tensor:
    """dy (B, F, S, C_out), x (B, F, S, C_in) -> (C_out, C_in, taps): the gradient of the weight."""
    gradient = x.new_zeros(taps, dy.shape[3], x.shape[3], dtype=_sum_dtype(x))
    for tap, (here, there) in zip(gradient, _shifts(x.shape[1], taps), strict=True):
        for clip, out in zip(x[:, there], dy[:, here], strict=True):
            tap += out.flatten(0, 1).t() @ clip.flatten(0, 1)
    return gradient.permute(1, 2, 0)


def _shifts(frames: int, taps: int) -> list[tuple[slice, slice]]:
    """For each tap, the frames of the output whose input frame exists, and these input frames."""
    pairs = []
    for shift in range(-(taps // 2), taps // 2 + 1):
        first, last = max(-shift, 0), max(min(frames, frames - shift), 0)
        pairs.append((slice(first, max(first, last)), slice(first + shift, max(first, last) + shift)))
    return pairs


def block_statistics(y: Tensor) -> Tensor:
    """y (B, F, S, C) -> (2, B, F, blocks, C): means of STATISTICS_ROWS positions, sums of squares about them."""
    parts = y.to(_sum_dtype(y)).split(STATISTICS_ROWS, 2)
    means = torch.stack([part.mean(2) for part in parts], 2)
    squares = [(part - means[:, :, i, None]).square().sum(2) for i, part in enumerate(parts)]
    return torch.stack([means, torch.stack(squares, 2)])


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# The residual block


@torch.library.custom_op("lavie::pseudo3d_block", mutates_args=())
def _block(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    time: Tensor | None,
    frames: int,
    groups: int,
    eps: float,
    norm_frames: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    n = _normalised(x, (norm1_weight, norm1_bias), groups, eps, norm_frames, backend)[0]
    h = _convolve(n, conv1_weight, conv1_bias, time, None, frames, backend)
    n = _normalised(h, (norm2_weight, norm2_bias), groups, eps, norm_frames, backend)[0]
    return _convolve(n, conv2_weight, conv2_bias, None, x, frames, backend), h


@_block.register_fake
def _(x, w1, b1, conv1_weight, c1, w2, b2, conv2_weight, c2, time, frames, groups, eps, norm_frames, backend):
    middle = (x.shape[0], conv1_weight.shape[0], *x.shape[2:])
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(middle).contiguous(memory_format=torch.channels_last),
    )


@register_flop_formula(torch.ops.lavie.pseudo3d_block)
def _(x, w1, b1, conv1_weight, c1, w2, b2, conv2_weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * x[0] * math.prod(x[2:]) * (math.prod(conv1_weight) + math.prod(conv2_weight))


@torch.library.custom_op("lavie::pseudo3d_block_backward", mutates_args=())
def _block_backward(
    dy: Tensor,
    x: Tensor,
    h: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    needs_conv1: bool,
    needs_conv2: bool,
    frames: int,
    groups: int,
    eps: float,
    norm_frames: int,
    backend: str,
) -> list[Tensor]:
    settings = (groups, eps, norm_frames, backend)
    norm1, norm2 = (norm1_weight, norm1_bias), (norm2_weight, norm2_bias)
    n, mean, rstd = _normalised(h, norm2, *settings)
    dn, dconv2_weight = _convolve_backward(dy, n, conv2_weight, needs_conv2, frames, backend)
    dh, *dnorm2 = _normalised_backward(dn, h, norm2, mean, rstd, *settings)
    n, mean, rstd = _normalised(x, norm1, *settings)
    dn, dconv1_weight = _convolve_backward(dh, n, conv1_weight, needs_conv1, frames, backend)
    dx, *dnorm1 = _normalised_backward(dn, x, norm1, mean, rstd, *settings)
    dx += dy
    dtime = _clips(dh, frames).sum((1, 2), dtype=_sum_dtype(dh))
    dconv1_bias = dtime.sum(0).to(conv1_bias.dtype)
    dconv2_bias = dy.sum((0, 2, 3), dtype=_sum_dtype(dy)).to(conv2_bias.dtype)
    return [dx, *dnorm1, dconv1_weight, dconv1_bias, *dnorm2, dconv2_weight, dconv2_bias, dtime]


@_block_backward.register_fake
def _(dy, x, h, w1, b1, conv1, c1, w2, b2, conv2, c2, needs_conv1, needs_conv2, frames, *_):
    convs = [
        torch.empty_like(w) if needed else w.new_empty(0) for w, needed in ((conv1, needs_conv1), (conv2, needs_conv2))
    ]
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dtime = x.new_empty(x.shape[0] // frames, conv1.shape[0], dtype=_sum_dtype(x))
    vectors = [torch.empty_like(t) for t in (w1, b1, c1, w2, b2, c2)]
    return [dx, *vectors[:2], convs[0], *vectors[2:5], convs[1], vectors[5], dtime]


def _setup_block(ctx, inputs, output):
    x, *parameters, time, ctx.frames, ctx.groups, ctx.eps, ctx.norm_frames, ctx.backend = inputs
    ctx.time_dtype = None if time is None else time.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], *parameters)


def _backward_block(ctx, dy, _dh):
    needs = ctx.needs_input_grad
    settings = (needs[3], needs[7], ctx.frames, ctx.groups, ctx.eps, ctx.norm_frames, ctx.backend)
    *gradients, dtime = _block_backward(dy, *ctx.saved_tensors, *settings)
    gradients.append(None if ctx.time_dtype is None else dtime.to(ctx.time_dtype))
    return *(g if needed else None for g, needed in zip(gradients, needs, strict=False)), None, None, None, None, None


_block.register_autograd(_backward_block, setup_context=_setup_block)


def _normalised(
    x: Tensor, norm: Affine, groups: int, eps: float, frames: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """silu(norm(x)), and the mean and rstd (N, groups)."""
    return norms._group_norm_silu(x, *norm, groups, eps, frames, 0, False, True, backend)


def _normalised_backward(
    dy: Tensor, x: Tensor, norm: Affine, mean: Tensor, rstd: Tensor, groups: int, eps: float, frames: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and of the norm's parameters."""
    return norms._group_norm_silu_backward(dy, x, *norm, mean, rstd, groups, frames, 0, False, True, backend)


def _clips(x: Tensor, frames: int) -> Tensor:
    """(B * frames, C, H, W) -> (B, frames, S, C): a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, frames))


def _images(v: Tensor, like: Tensor) -> Tensor:
    """(B, frames, S, C) -> (B * frames, C, H, W), channels last, with the height and width of `like`."""
    return v.flatten(0, 1).unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor, time: Tensor | None, residual: Tensor | None, frames: int, backend: str
) -> Tensor:
    """A convolution of either kind on folded frames, the time embedding and the residual added."""
    if weight.ndim == 5:
        clips = None if residual is None else _clips(residual, frames)
        return _images(_pseudo3d_conv(_clips(x, frames), weight.flatten(2), bias, time, clips, False, backend)[0], x)
    padding = [size // 2 for size in weight.shape[2:]]
    y = F.conv2d(x, weight.to(x.dtype), padding=padding).contiguous(memory_format=torch.channels_last)
    _clips(y, frames).add_(bias if time is None else (bias + time)[:, None, None])
    return y if residual is None else y.add_(residual)


def _convolve_backward(
    dy: Tensor, x: Tensor, weight: Tensor, needs_weight: bool, frames: int, backend: str
) -> tuple[Tensor, Tensor]:
    """The gradients of x and, if needed, of the weight."""
    none = weight.new_empty(0)
    if weight.ndim == 5:
        clips = _clips(dy, frames)
        taps = weight.flatten(2)
        dx = _images(_transposed(clips, taps, backend), x)
        return dx, _weight_gradient(clips, _clips(x, frames), taps, backend).view_as(weight) if needs_weight else none
    padding = [size // 2 for size in weight.shape[2:]]
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy, x, weight.to(x.dtype), None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, needs_weight, False]
    )
    return dx, dweight.to(weight.dtype) if needs_weight else none
