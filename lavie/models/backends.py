"""Which implementations the operations of a network run on: the keys `kernels` and `attention` of a run.

Each module that calls an operation keeps its choice, so networks with different choices live side by side.
"""

import torch
from torch import nn

from ..ops.attention import AttentionBackend, require_attention
from ..ops.backend import Backend, require_kernels


class UsesKernels:
    """A module that calls operations with Triton kernels: GroupNorm, temporal attention, temporal convolution."""

    kernel_backend: Backend = "auto"


class UsesAttention:
    """A module that calls attention within frames or to text."""

    attention_backend: AttentionBackend = "sdpa"


def set_backends(network: nn.Module, *, kernels: Backend = "auto", attention: AttentionBackend = "sdpa") -> None:
    """Let every operation of `network` run on `kernels` and `attention`, values of the keys of these names."""
    for module in network.modules():
        if isinstance(module, UsesKernels):
            module.kernel_backend = kernels
        if isinstance(module, UsesAttention):
            module.attention_backend = attention


def require_backends(kernels: Backend, attention: AttentionBackend, device: torch.device | None) -> None:
    """Check, before any work, that what a run asks for can run on `device`; on None, that its packages are installed.

    Raises:
        KernelError: a package or the GPU that it needs is missing.
    """
    require_kernels(kernels, device)
    require_attention(attention, device)
