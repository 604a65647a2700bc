"""The slice of a parameter's float32 master that this rank holds under any ZeRO stage, and the way back.

Stage 3 cuts every parameter into equal slices, one a rank. Stages 1 and 2 cut the flattened parameters at arbitrary
places. Stage 0 leaves every rank the whole.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """Elements [start, start + len(values)) of a flattened parameter of the given shape."""

    shape: torch.Size
    start: int
    values: Tensor
    """1-D, float32 for parameters that train. A view of the optimizer's master where that lies on the device."""
    replicated: bool
    """Whether every rank holds the whole."""


class Extent(NamedTuple):
    """Which elements of a flattened parameter a rank holds: [start, start + length)."""

    shape: torch.Size
    start: int
    length: int
    replicated: bool
    """Whether every rank holds the whole."""


def local_extent(parameter: Any) -> Extent:
    """Return which elements of a parameter this rank holds, which may be none.

    Args:
        parameter: a parameter of a DeepSpeed engine's module. DeepSpeed and `build_engine` have given it attributes
            that torch.nn.Parameter does not declare.
    """
    # Stage 3: equal slices, of which the last ones hold padding.
    if hasattr(parameter, "ds_id"):
        size = parameter.ds_tensor.numel()
        start = dist.get_rank() * size
        return Extent(parameter.ds_shape, start, min(size, max(parameter.ds_numel - start, 0)), replicated=False)

    # Stages 1 and 2: a fragment of what trains, or none where it lies with other ranks.
    if parameter.requires_grad and hasattr(parameter, "_hp_mapping"):
        if parameter._hp_mapping is None:
            return Extent(parameter.shape, 0, 0, replicated=False)
        address = parameter._hp_mapping.lp_fragment_address
        return Extent(parameter.shape, address.start, address.numel, replicated=False)

    # Stage 0, and what does not train under stages 1 and 2.
    return Extent(parameter.shape, 0, parameter.numel(), replicated=True)


def local_slice(parameter: Any) -> Slice:
    """Return the slice that this rank holds of a parameter, as `local_extent` tells of it.

    Args:
        parameter: a parameter of a DeepSpeed engine's module.
    """
    shape, start, length, replicated = local_extent(parameter)
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_local_fp32_param

        values = safe_get_local_fp32_param(parameter) if parameter.requires_grad else parameter.ds_tensor
        return Slice(shape, start, values.flatten()[:length], replicated)
    if not replicated:
        mapping = parameter._hp_mapping
        values = mapping.hp_fragment if mapping else parameter.new_empty(0, dtype=torch.float32)
        return Slice(shape, start, values, replicated)
    whole = getattr(parameter, "fp32_master", parameter)
    return Slice(shape, start, whole.detach().flatten(), replicated)


def gather(piece: Slice) -> Tensor:
    """Return the whole tensor, float32, on every rank. Collective: all ranks call it for the same parameter."""
    if piece.replicated:
        return piece.values.float().view(piece.shape)
    # Integers add exactly: the owner's bits plus zeros, whatever the float is.
    # A slice may lie on the CPU while the ranks talk by their GPUs.
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else piece.values.device
    bits = torch.zeros(piece.shape.numel(), dtype=torch.int32, device=device)
    bits[piece.start : piece.start + piece.values.numel()] = piece.values.float().view(torch.int32).to(device)
    dist.all_reduce(bits)
    return bits.view(torch.float32).view(piece.shape)
