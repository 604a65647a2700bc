"""LayerNorm and the linear layers that read it, as one step of autograd that keeps the norm's input alone.

Separate operations keep the norm's output too, for the gradients of the layers' weights. Here it is computed again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import under_autocast


def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weights: tuple[Tensor, ...], bias: Tensor | None
) -> Tensor:
    """Normalise the rows of x, and multiply them by several weights in one product. Differentiable in every tensor.

    Args:
        x: (..., C).
        norm_weight, norm_bias: (C,), the affine map behind LayerNorm.
        eps: added to the variance.
        weights: (C_out, C) each, those of linear layers.
        bias: of all their outputs together, or None.

    Returns:
        (..., C_out + ...), the outputs of the layers one behind the other.
    """
    if under_autocast(x):
        return separate_operations(x, norm_weight, norm_bias, eps, weights, bias)
    return _NormLinear.apply(x, norm_weight, norm_bias, eps, bias, *weights)


def separate_operations(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weights: tuple[Tensor, ...], bias: Tensor | None
) -> Tensor:
    """Define `norm_linear`, whose arguments and result these are, an operation after the other."""
    return F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), _packed(weights), bias)


def _packed(weights: tuple[Tensor, ...]) -> Tensor:
    """Return the weights one above the other; a single one as it is."""
    return weights[0] if len(weights) == 1 else torch.cat(weights)


class _NormLinear(torch.autograd.Function):
    """`norm_linear` with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        """Compute the outputs, and keep x."""
        weight = _packed(weights)
        ctx.eps, ctx.sizes = eps, [len(w) for w in weights]
        ctx.save_for_backward(x, norm_weight, norm_bias, weight)
        return F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Return the gradients that are needed; the norm's output and statistics are computed again."""
        x, norm_weight, norm_bias, weight = ctx.saved_tensors
        needs_x, needs_norm_weight, needs_norm_bias, _, needs_bias, *needs_weights = ctx.needs_input_grad
        shape, rows = list(norm_weight.shape), dy.flatten(0, -2)
        n, mean, rstd = torch.native_layer_norm(x, shape, norm_weight, norm_bias, ctx.eps)
        dweights: tuple[Tensor | None, ...] = (None,) * len(needs_weights)
        if any(needs_weights):
            dweights = (rows.t() @ n.flatten(0, -2)).split(ctx.sizes)
        dx, dnorm_weight, dnorm_bias = torch.ops.aten.native_layer_norm_backward(
            dy @ weight, x, shape, mean, rstd, norm_weight, norm_bias, [needs_x, needs_norm_weight, needs_norm_bias]
        )
        return dx, dnorm_weight, dnorm_bias, None, rows.sum(0) if needs_bias else None, *dweights
