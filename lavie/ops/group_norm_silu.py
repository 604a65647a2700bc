"""GroupNorm, with or without SiLU, on channels-last memory, over single images or over the frames of a clip.

x is a folded batch (B * (frames + images), C, H, W) in `torch.channels_last`: first the B clips, `frames` rows each,
then `images` independent images for each of them. Statistics pool a clip's frames; an image stands alone, or joins the
statistics of its clip (`pool_images`, as the released network has it).
Statistics and the affine map are computed in float32 (float64 for float64), centred before squaring.
"""

from typing import Any

import torch
from torch import Tensor

from .backend import kernels_for


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int,
    eps: float,
    frames: int = 1,
    images: int = 0,
    pool_images: bool = False,
    silu: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Normalise x over groups of channels, and apply SiLU if `silu`. Differentiable in x, weight and bias.

    Args:
        x: (B * (frames + images), C, H, W).
        weight, bias: (C,), the affine map of each channel.
        groups: groups of neighbouring channels that share statistics.
        eps: added to the variance.
        frames: frames of each clip, whose statistics are pooled; 1: no pooling.
        images: independent images of each clip.
        pool_images: whether images share the statistics of their clip.
        silu: whether SiLU follows.
        backend: which implementation runs, see `kernels_for`.

    Returns:
        A tensor like x, channels last. The same bits on every run.

    Raises:
        ValueError: x cannot be cut into such groups or clips.
    """
    if x.shape[1] % groups or x.shape[0] % (frames + images):
        raise ValueError(
            f"x of shape {tuple(x.shape)} cannot be cut into {groups} groups of channels and clips of {frames} frames "
            f"and {images} images; wanted multiples of {groups} and {frames + images}"
        )
    return norm_forward(x, weight, bias, groups, eps, frames, images, pool_images, silu, backend)[0]


@torch.library.custom_op("lavie::group_norm_silu", mutates_args=())
def norm_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    frames: int,
    images: int,
    pool_images: bool,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result of `group_norm_silu`, and the mean and rstd (N, groups) of each image."""
    kernels = kernels_for("group_norm_silu", backend, x, weight, bias, groups)
    if kernels is not None:
        return kernels.forward(x, weight, bias, groups, eps, frames, images, pool_images, silu)

    # Statistics of each image and group, then of all images that share them; centred before squaring.
    v = _rows(x)  # (N, S, C)
    size = v.shape[1] * (v.shape[2] // groups)
    mean = _pool(v.sum(1).unflatten(-1, (groups, -1)).sum(-1) / size, frames, images, pool_images)  # (N, groups)
    centred = v - _per_channel(mean, v)
    variance = _pool((centred * centred).sum(1).unflatten(-1, (groups, -1)).sum(-1) / size, frames, images, pool_images)
    rstd = (variance + eps).rsqrt()
    return _unrows(_mapped(centred, weight, bias, rstd, silu), x), mean, rstd


@norm_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, *_others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of the right shapes, for compilers."""
    stats = x.new_empty(x.shape[0], groups, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), stats, torch.empty_like(stats)


@torch.library.custom_op("lavie::group_norm_silu_backward", mutates_args=())
def norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    frames: int,
    images: int,
    pool_images: bool,
    silu: bool,
    backend: str,
    added: Tensor | None,
    again: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, and the output again if `again`, else an empty tensor.

    Args:
        dy: the gradient of the output, like x.
        mean, rstd: (N, groups), of the forward pass; those before and after are its arguments.
        added: what reaches x from elsewhere, like x, which is added to its gradient; None: nothing.
        again: whether a backward pass that kept x alone wants the output too, for the layer behind the norm.
    """
    kernels = kernels_for("group_norm_silu", backend, x, weight, bias, groups)
    if kernels is not None:
        settings = (groups, frames, images, pool_images, silu)
        return kernels.backward(dy, x, weight, bias, mean, rstd, *settings, added, again)

    # The gradient g in front of SiLU.
    v, g = _rows(x), _rows(dy)
    size = v.shape[1] * (v.shape[2] // groups)
    x_hat = (v - _per_channel(mean, v)).mul_(_per_channel(rstd, v))
    y = x.new_empty(0)
    if silu or again:
        z = torch.addcmul(bias, x_hat, weight)
        g = torch.ops.aten.silu_backward(g, z) if silu else g
        y = _unrows(torch.nn.functional.silu(z, inplace=True) if silu else z, x) if again else y

    # dx = (g * weight - mean of g * weight - x_hat * mean of g * x_hat * weight) * rstd, the means over x's own set.
    g_sum, gx_sum = g.sum(1), (g * x_hat).sum(1)  # (N, C)
    mean_g = _pool((g_sum * weight).unflatten(-1, (groups, -1)).sum(-1) / size, frames, images, pool_images)
    mean_gx = _pool((gx_sum * weight).unflatten(-1, (groups, -1)).sum(-1) / size, frames, images, pool_images)
    same_for_all = torch.addcmul(_per_channel(mean_g, v), x_hat, _per_channel(mean_gx, v), out=x_hat)
    dx = (g * weight).sub_(same_for_all).mul_(_per_channel(rstd, v))
    dx = dx if added is None else dx.add_(_rows(added))
    return _unrows(dx, x), gx_sum.sum(0).to(weight.dtype), g_sum.sum(0).to(bias.dtype), y


@norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return empty results of the right shapes, for compilers; the last argument is `again`."""
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    y = torch.empty_like(dx) if others[-1] else x.new_empty(0)
    return dx, torch.empty_like(weight), torch.empty_like(bias), y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep x, the parameters and the statistics for the backward pass."""
    x, weight, bias, ctx.groups, _, ctx.frames, ctx.images, ctx.pool_images, ctx.silu, ctx.backend = inputs
    _, mean, rstd = output
    ctx.set_materialize_grads(False)  # the statistics get no gradient: build no zeros for them
    ctx.save_for_backward(x, weight, bias, mean, rstd)


def _backward(ctx: Any, dy: Tensor, _dmean: None, _drstd: None) -> tuple[Tensor | None, ...]:
    """Return the gradients in the order of the operation's arguments."""
    settings = (ctx.groups, ctx.frames, ctx.images, ctx.pool_images, ctx.silu, ctx.backend)
    *gradients, _ = norm_backward(dy, *ctx.saved_tensors, *settings, None, False)
    return *gradients, *[None] * 7


norm_forward.register_autograd(_backward, setup_context=_setup_context)


def _rows(x: Tensor) -> Tensor:
    """Return x (N, C, H, W) as contiguous (N, S, C) in the dtype of the statistics: a view of channels-last float32."""
    v = x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
    return v if v.dtype == torch.float64 else v.float()


def _unrows(v: Tensor, like: Tensor) -> Tensor:
    """Return v (N, S, C) in the shape and dtype of `like` (N, C, H, W), channels last."""
    return v.to(like.dtype).unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _mapped(centred: Tensor, weight: Tensor, bias: Tensor, rstd: Tensor, silu: bool) -> Tensor:
    """Return the affine map of centred rows (N, S, C), and SiLU of it if `silu`. Their memory may be written over."""
    y = torch.addcmul(bias, centred, _per_channel(rstd, centred) * weight, out=centred)
    return torch.nn.functional.silu(y, inplace=True) if silu else y


def _per_channel(stats: Tensor, v: Tensor) -> Tensor:
    """Repeat the statistics of groups for each of their channels: (N, groups) -> (N, 1, C)."""
    return stats.repeat_interleave(v.shape[2] // stats.shape[1], dim=1).unsqueeze(1)


def _pool(stats: Tensor, frames: int, images: int, pool_images: bool) -> Tensor:
    """Average (B * (frames + images), groups) over the rows that share statistics."""
    if frames + images * pool_images <= 1:
        return stats
    batch = len(stats) // (frames + images)
    clips, stills = (part.unflatten(0, (batch, -1)) for part in stats.split([batch * frames, batch * images]))
    shared = (torch.cat([clips, stills], 1) if pool_images else clips).mean(1, keepdim=True)
    stills = shared.expand_as(stills) if pool_images else stills
    return torch.cat([shared.expand_as(clips).flatten(0, 1), stills.flatten(0, 1)])
