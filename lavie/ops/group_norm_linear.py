"""GroupNorm of single images and the linear layer that reads its pixels, as one step of autograd that keeps x alone.

The layer's input, the norm's output, is computed again on the way back, where the gradient that passes the layer by is
added to x's too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import under_autocast
from .group_norm_silu import group_norm_silu, norm_backward, norm_forward

ALONE = (1, 0, False, False)
"""Settings of the norm: frames by themselves, no images beside them, no pooling, no SiLU."""


def group_norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Normalise images over groups of channels, and apply a linear layer. Differentiable in every tensor.

    Args:
        x: (N, C, H, W), channels last.
        norm_weight, norm_bias: (C,), the affine map of each channel.
        groups: groups of neighbouring channels that share statistics.
        eps: added to the variance.
        weight, bias: (C_out, C) and (C_out,), of the linear layer.
        backend: which implementation of the norm runs, see `kernels_for`.

    Returns:
        x, for the residual connection, and the layer's output as tokens (N, H * W, C_out).
    """
    if under_autocast(x):
        return separate_operations(x, norm_weight, norm_bias, groups, eps, weight, bias, backend=backend)
    return _GroupNormLinear.apply(x, norm_weight, norm_bias, groups, eps, weight, bias, backend)


def separate_operations(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    *,
    backend: str = "torch",
    norm: Any = group_norm_silu,
) -> tuple[Tensor, Tensor]:
    """Define `group_norm_linear`, whose arguments and result these are; `norm` stands for `group_norm_silu`."""
    n = norm(x, norm_weight, norm_bias, groups=groups, eps=eps, silu=False, backend=backend)
    return x, F.linear(_tokens(n), weight, bias)


def _tokens(x: Tensor) -> Tensor:
    """Return x (N, C, H, W) as tokens (N, H * W, C), a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class _GroupNormLinear(torch.autograd.Function):
    """`group_norm_linear` with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        groups: int,
        eps: float,
        weight: Tensor,
        bias: Tensor,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        """Compute the tokens, and keep x and its statistics."""
        n, mean, rstd = norm_forward(x, norm_weight, norm_bias, groups, eps, *ALONE, backend)
        ctx.set_materialize_grads(False)  # x may go nowhere else: build no zeros for it
        ctx.groups, ctx.backend = groups, backend
        ctx.save_for_backward(x, norm_weight, norm_bias, mean, rstd, weight)
        return x, F.linear(_tokens(n), weight, bias)

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, dy: Tensor) -> Any:
        """Return the gradients that are needed; the norm's output is computed again beside its input's gradient."""
        x, norm_weight, norm_bias, mean, rstd, weight = ctx.saved_tensors
        *_, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dn = (dy @ weight).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        dx, dnorm_weight, dnorm_bias, n = norm_backward(
            *(dn, x, norm_weight, norm_bias, mean, rstd, ctx.groups, *ALONE, ctx.backend, dx, needs_weight)
        )
        rows = dy.flatten(0, 1)
        dweight = rows.t() @ _tokens(n).flatten(0, 1) if needs_weight else None
        return dx, dnorm_weight, dnorm_bias, None, None, dweight, rows.sum(0) if needs_bias else None, None
