"""Tensors on their way from the host to a device, for which the host does not wait."""

import torch
from torch import Tensor


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for what a GPU has still to do.

    A copy from ordinary memory to a GPU ends when the GPU has come to it, and with it ends the lead of the host. From
    pinned memory it is one more entry of the GPU's queue; PyTorch keeps the memory until it is read.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
