"""A sum, its LayerNorm and the linear layers that read it, as one step of autograd that keeps the sum alone.

Separate operations keep the norm's output too, for the gradients of the layers' weights. Here it is computed again.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import under_autocast
from .layer_norm import norm_backward, norm_forward


def norm_linear(
    x: Tensor,
    added: Tensor | None,
    rows: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Add to x, and give the first rows of the sum to LayerNorm and a linear layer. Differentiable in every tensor.

    Args:
        x: (N, ..., C).
        added: to the first rows of x, (N', ..., C), N' <= N; None: nothing.
        rows: how many of the N rows are normalised, 1 or more.
        norm_weight, norm_bias: (C,), the affine map behind LayerNorm.
        eps: added to the variance.
        weight: (C_out, C).
        bias: (C_out,) or None.
        backend: which implementation of the norm runs, see `kernels_for`.

    Returns:
        the sum, which is x if nothing is added, and the layer's output (rows, ..., C_out).
    """
    if under_autocast(x):
        return separate_operations(x, added, rows, norm_weight, norm_bias, eps, weight, bias)
    return _NormLinear.apply(x, added, rows, norm_weight, norm_bias, eps, weight, bias, backend)


def separate_operations(
    x: Tensor,
    added: Tensor | None,
    rows: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    *,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """Define `norm_linear`, whose arguments and result these are, an operation after the other on any backend."""
    if added is not None:
        end = len(added)
        x = x + added if end == len(x) else torch.cat([x[:end] + added, x[end:]])
    return x, F.linear(F.layer_norm(x[:rows], norm_weight.shape, norm_weight, norm_bias, eps), weight, bias)


def packed(groups: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the weights (C_out, C) of each group one above the other, so that a product serves the group.

    All groups are copied at once, except those of one weight, which is taken as it is.
    """
    several = [group for group in groups if len(group) > 1]
    joined = iter(_Packed.apply([len(group) for group in several], *(w for group in several for w in group)))
    return tuple(next(joined) if len(group) > 1 else group[0] for group in groups)


class _Packed(torch.autograd.Function):
    """`packed` of groups of several weights: views of one piece of memory, whose gradients are taken apart as views."""

    @staticmethod
    def forward(ctx: Any, counts: list[int], *weights: Tensor) -> tuple[Tensor, ...]:
        """Copy the weights of all groups, `counts` of them each."""
        rest, groups = list(weights), []
        for count in counts:
            groups.append(rest[:count])
            rest = rest[count:]
        ctx.rows = [[len(w) for w in group] for group in groups]
        memory = torch.cat([w.reshape(-1) for w in weights])
        parts = memory.split([sum(w.numel() for w in group) for group in groups])
        return tuple(part.view(-1, group[0].shape[1]) for part, group in zip(parts, groups, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the rows of each weight."""
        return None, *(part for dy, rows in zip(gradients, ctx.rows, strict=True) for part in dy.split(rows))


class _NormLinear(torch.autograd.Function):
    """`norm_linear` with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        rows: int,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        """Compute the sum and the output, and keep the sum."""
        flat = x.flatten(0, -2)
        more = None if added is None else added.flatten(0, -2)
        n, *rest = norm_forward(flat, more, rows * (len(flat) // len(x)), norm_weight, norm_bias, eps, backend)
        total = rest[0].view(x.shape) if rest else x
        ctx.set_materialize_grads(False)  # the sum may go nowhere else: build no zeros for it
        ctx.eps, ctx.backend, ctx.added = eps, backend, None if added is None else len(added)
        ctx.save_for_backward(total, norm_weight, norm_bias, weight)
        return total, F.linear(n.view(rows, *x.shape[1:]), weight, bias)

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor | None, dy: Tensor) -> Any:
        """Return the gradients that are needed; the norm's output and statistics are computed again."""
        total, norm_weight, norm_bias, weight = ctx.saved_tensors
        _, needs_added, _, _, _, _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dy = dy.flatten(0, -2)
        dflat = None if dtotal is None else dtotal.flatten(0, -2)
        dx, n, dnorm = norm_backward(
            dy @ weight, dflat, total.flatten(0, -2), norm_weight, norm_bias, ctx.eps, ctx.backend
        )
        dx = dx.view(total.shape)
        dadded = dx[: ctx.added] if needs_added else None
        dweight = dy.t() @ n if needs_weight else None
        return dx, dadded, None, *dnorm.unbind(), None, dweight, dy.sum(0) if needs_bias else None, None
