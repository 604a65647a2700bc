"""The residual block of the UNet as one step of autograd, which keeps two activations for the backward pass.

Separate operations keep the block's input, the first convolution's output, and both norms' outputs, which the
convolutions want for the gradients of their weights. Here the norms' outputs are computed again from their statistics,
by one pass each over what is kept anyway; the input may come in two parts, which are put together again then.
"""

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import under_autocast
from .group_norm_silu import group_norm_silu, norm_backward, norm_forward

Affine: TypeAlias = tuple[Tensor, Tensor]
"""The weight and the bias of a convolution or of a norm."""


class NormSettings(NamedTuple):
    """What both norms of a block have in common; see `group_norm_silu`."""

    groups: int
    eps: float
    frames: int
    images: int
    pool_images: bool


def residual_block(
    x: Tensor,
    skip: Tensor | None,
    time: Tensor,
    norm1: Affine,
    conv1: Affine,
    norm2: Affine,
    conv2: Affine,
    shortcut: Affine | None,
    settings: NormSettings,
    *,
    backend: str = "auto",
) -> Tensor:
    """Compute shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time))), differentiable in every tensor.

    Args:
        x: (B * (frames + images), C, H, W), channels last, the clips before the images as for `group_norm_silu`.
        skip: further channels of x behind its own, (B * (frames + images), C', H, W), or None.
        time: (B, C_out), added to every row and position of a sample, its images among them.
        norm1, norm2: weight and bias of C + C' and C_out numbers.
        conv1, conv2: of 3 x 3, to C_out channels.
        shortcut: of 1 x 1, from C + C' to C_out channels; None: the identity.
        settings: of both norms.
        backend: which implementation of the norms runs, see `kernels_for`.

    Returns:
        (B * (frames + images), C_out, H, W), channels last.
    """
    parameters = (*norm1, *conv1, *norm2, *conv2, *(shortcut or (None, None)))
    if under_autocast(x):
        return separate_operations(x, skip, time, norm1, conv1, norm2, conv2, shortcut, settings, backend=backend)
    return _ResidualBlock.apply(x, skip, time, *parameters, settings, backend)


def separate_operations(
    x: Tensor,
    skip: Tensor | None,
    time: Tensor,
    norm1: Affine,
    conv1: Affine,
    norm2: Affine,
    conv2: Affine,
    shortcut: Affine | None,
    settings: NormSettings,
    *,
    backend: str = "auto",
    norm: Any = group_norm_silu,
) -> Tensor:
    """Define `residual_block`, whose arguments and result these are; `norm` stands for `group_norm_silu`."""
    given = {**settings._asdict(), "backend": backend}
    x = x if skip is None else torch.cat([x, skip], 1)
    h = F.conv2d(norm(x, *norm1, **given), *conv1, padding=1)
    rows = [(part + time[:, None, :, None, None]).flatten(0, 1) for part in _samples(h, settings)]
    h = rows[0] if len(rows) == 1 else torch.cat(rows)
    h = F.conv2d(norm(h, *norm2, **given), *conv2, padding=1)
    return h + (x if shortcut is None else F.conv2d(x, *shortcut))


def _samples(x: Tensor, settings: NormSettings) -> list[Tensor]:
    """Return x (B * (frames + images), ...) as views (B, rows, ...) which together hold all rows."""
    frames, images = settings.frames, settings.images
    batch = x.shape[0] // (frames + images)
    if batch == 1 or not frames or not images:
        return [x.unflatten(0, (batch, -1))]
    return [part.unflatten(0, (batch, -1)) for part in x.split([batch * frames, batch * images])]


class _ResidualBlock(torch.autograd.Function):
    """`residual_block` with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        skip: Tensor | None,
        time: Tensor,
        norm1_weight: Tensor,
        norm1_bias: Tensor,
        conv1_weight: Tensor,
        conv1_bias: Tensor,
        norm2_weight: Tensor,
        norm2_bias: Tensor,
        conv2_weight: Tensor,
        conv2_bias: Tensor,
        shortcut_weight: Tensor | None,
        shortcut_bias: Tensor | None,
        settings: NormSettings,
        backend: str,
    ) -> Tensor:
        """Compute the block, and keep its input, the first convolution's output and the statistics of both norms."""
        groups, eps, *layout = settings
        whole = x if skip is None else torch.cat([x, skip], 1)

        # The first convolution's bias comes with the time embedding, in one pass over its output.
        n, mean1, rstd1 = norm_forward(whole, norm1_weight, norm1_bias, groups, eps, *layout, True, backend)
        h = F.conv2d(n, conv1_weight, padding=1)
        shift = (time + conv1_bias)[:, None, :, None, None]
        for part in _samples(h, settings):
            part += shift

        n, mean2, rstd2 = norm_forward(h, norm2_weight, norm2_bias, groups, eps, *layout, True, backend)
        if shortcut_weight is None or shortcut_bias is None:
            y = F.conv2d(n, conv2_weight, conv2_bias, padding=1)
            y += whole
        else:
            y = F.conv2d(n, conv2_weight, conv2_bias + shortcut_bias, padding=1)
            y = _add_product(y, whole, shortcut_weight)

        ctx.settings, ctx.backend = settings, backend
        ctx.save_for_backward(
            *(x, skip, time, h, mean1, rstd1, mean2, rstd2),
            *(norm1_weight, norm1_bias, conv1_weight, conv1_bias),
            *(norm2_weight, norm2_bias, conv2_weight, conv2_bias, shortcut_weight, shortcut_bias),
        )
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Return the gradients that are needed, in the order of forward's arguments."""
        x, skip, time, h, mean1, rstd1, mean2, rstd2, *parameters = ctx.saved_tensors
        n1_weight, n1_bias, c1_weight, c1_bias, n2_weight, n2_bias, c2_weight, c2_bias, s_weight, s_bias = parameters
        (groups, _, *layout), backend = ctx.settings, ctx.backend
        needs = ctx.needs_input_grad
        whole = x if skip is None else torch.cat([x, skip], 1)

        # The second half, through convolution and norm, which gives its output again if the weight's gradient wants it.
        # What h was before the time embedding is not needed: a sum has the same gradient everywhere.
        dn = _input_gradient(dy, h, c2_weight)
        dh, dn2_weight, dn2_bias, n = norm_backward(
            dn, h, n2_weight, n2_bias, mean2, rstd2, groups, *layout, True, backend, None, needs[9]
        )
        dc2_weight = _weight_gradient(dy, n, c2_weight) if needs[9] else None

        # The first half, likewise; the gradient that comes by the shortcut is added on the way out of the norm.
        dn = _input_gradient(dh, whole, c1_weight)
        short = dy if s_weight is None else _input_gradient(dy, whole, s_weight)
        dx, dn1_weight, dn1_bias, n = norm_backward(
            dn, whole, n1_weight, n1_bias, mean1, rstd1, groups, *layout, True, backend, short, needs[5]
        )
        dc1_weight = _weight_gradient(dh, n, c1_weight) if needs[5] else None
        ds_weight = _weight_gradient(dy, whole, s_weight) if needs[11] else None
        dx, dskip = (dx, None) if skip is None else dx.split([x.shape[1], skip.shape[1]], 1)

        # What is added to every position has the sum of the gradients there, made in float32 or float64.
        dtime = dc1_bias = dc2_bias = ds_bias = None
        if needs[2] or needs[6]:
            sums = [part.sum((1, 3, 4), dtype=mean1.dtype) for part in _samples(dh, ctx.settings)]
            dshift = sums[0] if len(sums) == 1 else sums[0] + sums[1]
            dtime, dc1_bias = dshift.to(time.dtype), dshift.sum(0).to(c1_bias.dtype)
        if needs[10] or needs[12]:
            dc2_bias = dy.sum((0, 2, 3), dtype=mean1.dtype).to(c2_bias.dtype)
            ds_bias = None if s_bias is None else dc2_bias.clone()
        first = (dn1_weight, dn1_bias, dc1_weight, dc1_bias)
        second = (dn2_weight, dn2_bias, dc2_weight, dc2_bias)
        return dx, dskip, dtime, *first, *second, ds_weight, ds_bias, None, None


def _add_product(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Add to y (N, C_out, H, W), in place, the convolution of 1 x 1 of x (N, C, H, W), as one matrix product."""
    rows = y.permute(0, 2, 3, 1)
    if not rows.is_contiguous():  # a convolution may answer in another layout where there is a single position
        return y.add_(F.conv2d(x, weight))
    rows.flatten(0, 2).addmm_(x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t())
    return y


def _input_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of x, the input of a convolution whose output has x's size."""
    return _convolution_backward(dy, x, weight, [True, False, False])[0]


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weight of a convolution of x whose output has x's size."""
    return _convolution_backward(dy, x, weight, [False, True, False])[1]


def _convolution_backward(dy: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients that `mask` names, of x, of the weight and of no bias."""
    padding = [weight.shape[2] // 2] * 2
    return torch.ops.aten.convolution_backward(dy, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, mask)
