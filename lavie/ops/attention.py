"""Spatial self-attention and cross-attention on packed, unpermuted tensors.

`sdpa` is PyTorch's scaled_dot_product_attention, which picks the best of its kernels; `flash-attn` is the package
of that name (Dao, 2023), for half-precision tensors on a GPU.
"""

import importlib.util
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError

AttentionBackend = Literal["sdpa", "flash-attn"]


def require_attention(backend: AttentionBackend, device: torch.device | None) -> None:
    """Check that a run whose key `attention` is `backend` can run on `device`; on None, that its package is installed.

    Raises:
        KernelError: the package or the GPU that it needs is missing.
    """
    if backend == "flash-attn":
        _require_flash_attn(device)


def attention(q: Tensor, k: Tensor, v: Tensor, *, backend: AttentionBackend = "sdpa") -> Tensor:
    """Attend from each query to all keys, without a mask, with the scale head_dim ** -0.5.

    Args:
        q: (N, S, heads, head_dim); strided views are welcome here and below.
        k, v: (N, L, heads, head_dim).
        backend: "sdpa" or "flash-attn".

    Returns:
        (N, S, heads, head_dim), contiguous, so that merging the heads is free.

    Raises:
        KernelError: flash-attn is asked for and missing, or the tensors are no fp16 or bf16 on a GPU.
    """
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    _require_flash_attn(q.device)
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise KernelError(
            f"attention is flash-attn, which computes in bf16 or fp16, but the tensors are {q.dtype}: "
            "set mixed_precision to bf16, or attention to sdpa"
        )
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v)


def _require_flash_attn(device: torch.device | None) -> None:
    """Raise KernelError if flash-attn is not installed, or a device is given that is no GPU."""
    reason = None
    if importlib.util.find_spec("flash_attn") is None:
        reason = "the package flash-attn is not installed (pip install 'lavie[flash]')"
    elif device is not None and device.type != "cuda":
        reason = f"the device is {device}, not a GPU"
    if reason:
        raise KernelError(f"attention is flash-attn, but {reason}; set attention to sdpa")
