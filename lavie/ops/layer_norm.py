"""LayerNorm of the first rows of a sum, and its backward pass, which gives the norm's output again.

What a transformer layer adds to its tokens is added on the way into the next layer's norm, and the gradient that passes
the layer by is added on the way out of it: a kernel each, where separate operations take two and four.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import kernels_for


@torch.library.custom_op("lavie::add_layer_norm", mutates_args=())
def norm_forward(
    x: Tensor, added: Tensor | None, rows: int, weight: Tensor, bias: Tensor, eps: float, backend: str
) -> list[Tensor]:
    """Return the norm of the first `rows` rows of x + added, (rows, C), and the sum if there is something to add.

    Args:
        x: (R, C), contiguous.
        added: to the first rows of x: (R', C), R' <= R; None: nothing.
        rows: 1 to R.
        weight, bias: (C,), the affine map behind the norm.
        eps: added to the variance.
        backend: which implementation runs, see `kernels_for`.
    """
    kernels = kernels_for("layer_norm", backend, x, weight, bias)
    if kernels is not None:
        return kernels.forward(x, added, rows, weight, bias, eps)
    total = x
    if added is not None:
        end = len(added)
        total = torch.empty_like(x)
        torch.add(x[:end], added, out=total[:end])
        total[end:] = x[end:]
    n = F.layer_norm(total[:rows], weight.shape, weight, bias, eps)
    return [n] if added is None else [n, total]


@norm_forward.register_fake
def _(x: Tensor, added: Tensor | None, rows: int, *_others: Any) -> list[Tensor]:
    """Return empty results of the right shapes, for compilers."""
    n = x.new_empty(rows, x.shape[1])
    return [n] if added is None else [n, torch.empty_like(x)]


@torch.library.custom_op("lavie::add_layer_norm_backward", mutates_args=())
def norm_backward(
    dn: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the sum (R, C), the norm's output again (rows, C), and those of weight and bias, (2, C).

    Args:
        dn: the gradient of the norm's output, (rows, C).
        dtotal: what reaches the sum from elsewhere, (R, C), or None.
        total: the sum, (R, C).
    """
    kernels = kernels_for("layer_norm", backend, total, weight, bias)
    if kernels is not None:
        return kernels.backward(dn, dtotal, total, weight, bias, eps)
    rows, shape = len(dn), list(weight.shape)
    n, mean, rstd = torch.native_layer_norm(total[:rows], shape, weight, bias, eps)
    dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
        dn, total[:rows], shape, mean, rstd, weight, bias, [True, True, True]
    )
    if dtotal is not None:
        dx += dtotal[:rows]
    if rows < len(total):
        rest = total.new_zeros(len(total) - rows, shape[0]) if dtotal is None else dtotal[rows:]
        dx = torch.cat([dx, rest])
    return dx, n, torch.stack([dweight, dbias])


@norm_backward.register_fake
def _(dn: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, *_others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of the right shapes, for compilers."""
    return torch.empty_like(total), torch.empty_like(dn), weight.new_empty(2, *weight.shape)
