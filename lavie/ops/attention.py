"""Spatial self-attention and cross-attention: PyTorch's scaled_dot_product_attention on packed, unpermuted tensors."""

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (N, S, heads, head_dim), k and v (N, L, heads, head_dim), strided views welcome -> (N, S, heads, head_dim).

    Scale head_dim ** -0.5, no mask. The output's memory is (N, S, heads, head_dim), so merging the heads is free.
    """
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
