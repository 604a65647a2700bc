"""Convolution over the frame axis, and the residual block of two convolutions (paper, section 4.1, "pseudo-3D").

The temporal half of a pseudo-3D convolution is nn.Conv3d with a kernel (k, 1, 1) and zero padding, on memory
(B, F, S, C), S = H * W. Frames that do not exist are left out of the sum instead of padded in. The time embedding and
the residual are added before the result is rounded and written.
"""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import kernels_for
from .group_norm_silu import norm_backward, norm_forward

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
    """Convolve clips over their frames: each output frame sums k input frames, mapped by a matrix each.

    y[:, f] = bias + time + residual[:, f] + sum over taps j of x[:, f + j - k // 2] weight[:, :, j]^T. The kernels sum
    in float32. Deterministic, and differentiable in every tensor.

    Args:
        x: (B, F, S, C_in); a strided view is welcome.
        weight: (C_out, C_in, k) or, as in nn.Conv3d, (C_out, C_in, k, 1, 1), with k odd.
        bias: (C_out,).
        time: (B, C_out), added to every frame and position of a clip.
        residual: (B, F, S, C_out); a strided view is welcome.
        backend: which implementation runs, see `kernels_for`.

    Returns:
        A contiguous (B, F, S, C_out) in x's dtype.

    Raises:
        ValueError: shapes do not fit.
    """
    weight = _taps(x, weight, bias, time, residual)
    return _pseudo3d_conv(x, weight, bias, time, residual, backend)


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
    backend: str = "auto",
) -> Tensor:
    """Compute x + conv2(silu(norm2(conv1(silu(norm1(x))) + time))), a temporal residual block, as one operation.

    It keeps x and the first convolution's output for the backward pass: two activations, where separate operations keep
    four (each norm's input and each convolution's). The normalised activations are computed again, by one pass of the
    norm each.

    Args:
        x: (B * frames, C, H, W), channels last.
        norm1, norm2: weight and bias (channels,) each; their statistics pool a clip's frames.
        conv1, conv2: weights (C_out, C_in, k, 1, 1) as of nn.Conv3d, and biases (C_out,); the first ends in C_middle
            channels, the second in C.
        frames: frames of a clip.
        groups, eps: of both norms.
        time: (B, C_middle) or None.
        backend: which implementation runs, see `kernels_for`.

    Returns:
        A tensor like x.
    """
    return _block(x, *norm1, *conv1, *norm2, *conv2, time, frames, groups, eps, backend)[0]


def _taps(x: Tensor, weight: Tensor, bias: Tensor | None, time: Tensor | None, residual: Tensor | None) -> Tensor:
    """Return the weight as (C_out, C_in, k), or raise ValueError if shapes do not fit."""
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
    backend: str,
) -> Tensor:
    """Compute `pseudo3d_conv` with a weight (C_out, C_in, k)."""
    kernels = kernels_for("pseudo3d_conv", backend, x, weight, bias, time, residual)
    if kernels is not None:
        return kernels.forward(x, weight, bias, time, residual)
    y = convolve(x, weight)
    for added in (bias, None if time is None else time[:, None, None], residual):
        if added is not None:
            y += added
    return y


@_pseudo3d_conv.register_fake
def _(x: Tensor, weight: Tensor, *_others: Any) -> Tensor:
    """Return an empty result of the right shape, for compilers."""
    return x.new_empty(*x.shape[:3], weight.shape[0])


@register_flop_formula(torch.ops.lavie.pseudo3d_conv)
def _(x_shape: torch.Size, weight_shape: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    """Return the FLOPs: a multiply-add for each position, tap and pair of channels."""
    return 2 * math.prod(x_shape[:3]) * math.prod(weight_shape)


@torch.library.custom_op("lavie::pseudo3d_conv_weight_gradient", mutates_args=())
def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, backend: str) -> Tensor:
    """Return the gradient of the weight (C_out, C_in, k), of which only shape and dtype are read."""
    kernels = kernels_for("pseudo3d_conv", backend, x, dy)
    gradient = (kernels.weight_gradient if kernels is not None else correlate)(dy, x, weight.shape[2])
    return torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(gradient)


@_weight_gradient.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, backend: str) -> Tensor:
    """Return an empty gradient of the right shape, for compilers."""
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep for the backward pass x and the weight, and the dtypes of the bias and of the time embedding."""
    x, weight, bias, time, _residual, ctx.backend = inputs
    ctx.dtypes = [None if t is None else t.dtype for t in (bias, time)]
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients that are needed, in the order of the operation's arguments."""
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, needs_time, needs_residual, _ = ctx.needs_input_grad
    dx = _input_gradient(dy, weight, ctx.backend) if needs_x else None
    dweight = _weight_gradient(dy, x, weight, ctx.backend) if needs_weight else None
    dbias = dtime = None
    if needs_bias or needs_time:
        dtime = dy.sum((1, 2), dtype=_sum_dtype(dy))
        dbias = dtime.sum(0).to(ctx.dtypes[0]) if needs_bias else None
        dtime = dtime.to(ctx.dtypes[1]) if needs_time else None
    return dx, dweight, dbias, dtime, dy if needs_residual else None, None


_pseudo3d_conv.register_autograd(_backward, setup_context=_setup_context)


def _input_gradient(dy: Tensor, weight: Tensor, backend: str) -> Tensor:
    """Return the gradient of x: the same convolution of dy, with reversed taps and exchanged channels."""
    return _pseudo3d_conv(dy, weight.transpose(0, 1).flip(2), None, None, None, backend)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve x (B, F, S, C_in) with weight (C_out, C_in, k): a matrix product per clip and tap, (B, F, S, C_out)."""
    taps = weight.permute(2, 1, 0).to(x.dtype).contiguous()
    y = x.new_zeros(*x.shape[:3], weight.shape[0])
    for tap, (written, read) in zip(taps, _frame_slices(x.shape[1], len(taps)), strict=True):
        for clip, out in zip(x[:, read], y[:, written], strict=True):
            rows = out.flatten(0, 1)
            torch.addmm(rows, clip.flatten(0, 1), tap, out=rows)
    return y


def correlate(dy: Tensor, x: Tensor, taps: int) -> Tensor:
    """Return the weight's gradient (C_out, C_in, taps), from dy (B, F, S, C_out) and x (B, F, S, C_in)."""
    gradient = x.new_zeros(taps, dy.shape[3], x.shape[3], dtype=_sum_dtype(x))
    for tap, (written, read) in zip(gradient, _frame_slices(x.shape[1], taps), strict=True):
        for clip, out in zip(x[:, read], dy[:, written], strict=True):
            tap += out.flatten(0, 1).t() @ clip.flatten(0, 1)
    return gradient.permute(1, 2, 0)


def _frame_slices(frames: int, taps: int) -> list[tuple[slice, slice]]:
    """Return, for each tap, the output frames whose input frame exists, and these input frames."""
    pairs = []
    for shift in range(-(taps // 2), taps // 2 + 1):
        first, last = max(-shift, 0), max(min(frames, frames - shift), 0)
        pairs.append((slice(first, max(first, last)), slice(first + shift, max(first, last) + shift)))
    return pairs


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which sums over x are made."""
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
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Compute `pseudo3d_block`; return its output, and that of the first convolution for the backward pass."""
    n = _normalised(x, (norm1_weight, norm1_bias), groups, eps, frames, backend)[0]
    h = _convolve(n, conv1_weight, conv1_bias, time, None, frames, backend)
    n = _normalised(h, (norm2_weight, norm2_bias), groups, eps, frames, backend)[0]
    return _convolve(n, conv2_weight, conv2_bias, None, x, frames, backend), h


@_block.register_fake
def _(x: Tensor, _w1: Tensor, _b1: Tensor, conv1_weight: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    """Return empty results of the right shapes, for compilers."""
    middle = (x.shape[0], conv1_weight.shape[0], *x.shape[2:])
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(middle).contiguous(memory_format=torch.channels_last),
    )


@register_flop_formula(torch.ops.lavie.pseudo3d_block)
def _(
    x: torch.Size,
    _w1: torch.Size,
    _b1: torch.Size,
    conv1: torch.Size,
    _c1: torch.Size,
    _w2: torch.Size,
    _b2: torch.Size,
    conv2: torch.Size,
    *_args: Any,
    **_kwargs: Any,
) -> int:
    """Return the FLOPs of both convolutions, from the shapes of x and of their weights."""
    return 2 * x[0] * math.prod(x[2:]) * (math.prod(conv1) + math.prod(conv2))


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
    backend: str,
) -> list[Tensor]:
    """Return the gradients of x, of the eight parameters in order, and of the time embedding.

    `h` is the first convolution's output. The gradient of a convolution's weight that is not needed is empty.
    """
    settings = (groups, eps, frames, backend)
    norm1, norm2 = (norm1_weight, norm1_bias), (norm2_weight, norm2_bias)

    # The second half: its normalised input again, then backwards through convolution and norm.
    n, mean, rstd = _normalised(h, norm2, *settings)
    dn, dconv2_weight = _convolve_backward(dy, n, conv2_weight, needs_conv2, frames, backend)
    dh, *dnorm2 = _normalised_backward(dn, h, norm2, mean, rstd, *settings)

    # The first half, likewise; x is the residual too, so dy reaches it directly.
    n, mean, rstd = _normalised(x, norm1, *settings)
    dn, dconv1_weight = _convolve_backward(dh, n, conv1_weight, needs_conv1, frames, backend)
    dx, *dnorm1 = _normalised_backward(dn, x, norm1, mean, rstd, *settings)
    dx += dy

    # What is added to every position has the sum of the gradients there.
    dtime = _clips(dh, frames).sum((1, 2), dtype=_sum_dtype(dh))
    dconv1_bias = dtime.sum(0).to(conv1_bias.dtype)
    dconv2_bias = dy.sum((0, 2, 3), dtype=_sum_dtype(dy)).to(conv2_bias.dtype)
    return [dx, *dnorm1, dconv1_weight, dconv1_bias, *dnorm2, dconv2_weight, dconv2_bias, dtime]


@_block_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    h: Tensor,
    w1: Tensor,
    b1: Tensor,
    conv1: Tensor,
    c1: Tensor,
    w2: Tensor,
    b2: Tensor,
    conv2: Tensor,
    c2: Tensor,
    needs_conv1: bool,
    needs_conv2: bool,
    frames: int,
    *_others: Any,
) -> list[Tensor]:
    """Return empty gradients of the right shapes, in the order of `_block_backward`, for compilers.

    Two letters are a norm's or a convolution's weight and bias: w1, b1, conv1, c1, then the same of the second half.
    """
    convs = [
        torch.empty_like(w) if needed else w.new_empty(0) for w, needed in ((conv1, needs_conv1), (conv2, needs_conv2))
    ]

    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dtime = x.new_empty(x.shape[0] // frames, conv1.shape[0], dtype=_sum_dtype(x))
    vectors = [torch.empty_like(t) for t in (w1, b1, c1, w2, b2, c2)]
    return [dx, *vectors[:2], convs[0], *vectors[2:5], convs[1], vectors[5], dtime]


def _setup_block(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep for the backward pass x, the first convolution's output and the parameters."""
    x, *parameters, time, ctx.frames, ctx.groups, ctx.eps, ctx.backend = inputs
    ctx.time_dtype = None if time is None else time.dtype
    ctx.set_materialize_grads(False)  # the first convolution's output gets no gradient: build no zeros for it
    ctx.save_for_backward(x, output[1], *parameters)


def _backward_block(ctx: Any, dy: Tensor, _dh: None) -> tuple[Tensor | None, ...]:
    """Return the gradients that are needed, in the order of the operation's arguments."""
    needs = ctx.needs_input_grad
    settings = (needs[3], needs[7], ctx.frames, ctx.groups, ctx.eps, ctx.backend)
    *gradients, dtime = _block_backward(dy, *ctx.saved_tensors, *settings)
    wanted = [g if needed else None for g, needed in zip(gradients, needs, strict=False)]
    wanted_time = dtime.to(ctx.time_dtype) if ctx.time_dtype is not None and needs[9] else None
    return *wanted, wanted_time, None, None, None, None


_block.register_autograd(_backward_block, setup_context=_setup_block)


def _normalised(
    x: Tensor, norm: Affine, groups: int, eps: float, frames: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return silu(norm(x)), and the mean and rstd (N, groups)."""
    return norm_forward(x, *norm, groups, eps, frames, 0, False, True, backend)


def _normalised_backward(
    dy: Tensor, x: Tensor, norm: Affine, mean: Tensor, rstd: Tensor, groups: int, eps: float, frames: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x and of the norm's parameters."""
    return norm_backward(dy, x, *norm, mean, rstd, groups, frames, 0, False, True, backend, None, False)[:3]


def _clips(x: Tensor, frames: int) -> Tensor:
    """Return folded frames (B * frames, C, H, W) as clips (B, frames, S, C), a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, frames))


def _images(v: Tensor, like: Tensor) -> Tensor:
    """Return clips (B, frames, S, C) as folded frames (B * frames, C, H, W), channels last, sized as `like`."""
    return v.flatten(0, 1).unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor, time: Tensor | None, residual: Tensor | None, frames: int, backend: str
) -> Tensor:
    """Convolve folded frames (B * frames, C, H, W) over time, and add the time embedding and the residual."""
    clips = None if residual is None else _clips(residual, frames)
    y = pseudo3d_conv(_clips(x, frames), weight, bias, time=time, residual=clips, backend=backend)
    return _images(y, x)


def _convolve_backward(
    dy: Tensor, x: Tensor, weight: Tensor, needs_weight: bool, frames: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weight, which is empty if not needed."""
    clips, taps = _clips(dy, frames), weight.flatten(2)
    dx = _images(_input_gradient(clips, taps, backend), x)
    if not needs_weight:
        return dx, weight.new_empty(0)
    return dx, _weight_gradient(clips, _clips(x, frames), taps, backend).view_as(weight)
