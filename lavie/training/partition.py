"""The slice of a parameter's float32 master that this rank holds under any ZeRO stage, and the way back.

Stage 3 cuts every parameter into equal slices, one a rank. Stages 1 and 2 cut the flattened parameters at arbitrary
places. Stage 0 leaves every rank the whole.
"""

from collections.abc import Iterable, Iterator
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
    """1-D, float32 for parameters that train: a view of the optimizer's master, wherever that lies."""
    replicated: bool
    """Whether every rank holds the whole."""
    share: int | None = None
    """The elements of each rank where all hold as many, one rank after the other, but for padding at the end."""


BUCKET = 2**24
"""Elements that one collective gathers, unless a single parameter has more: 64 MiB."""


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
        values = _master_of(parameter) if parameter.requires_grad else parameter.ds_tensor.detach()
        return Slice(shape, start, values.flatten()[:length], replicated, parameter.ds_tensor.numel())
    if not replicated:
        mapping = parameter._hp_mapping
        values = mapping.hp_fragment if mapping else parameter.new_empty(0, dtype=torch.float32)
        return Slice(shape, start, values, replicated)
    whole = getattr(parameter, "fp32_master", parameter)
    return Slice(shape, start, whole.detach().view(-1), replicated)  # an error where it would be a copy


def _master_of(parameter: Any) -> Tensor:
    """Return this rank's part of the master of a parameter that trains, padding included: a view, under stage 3.

    DeepSpeed's own function for it waits for its stream of reductions at every call, which writes gradients alone.
    """
    optimizer = parameter._z3_optimizer
    group, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    return optimizer.fp32_partitioned_groups_flat[group].detach().narrow(0, start, size)


def gathered(pieces: Iterable[Slice]) -> Iterator[Tensor]:
    """Yield the whole of each parameter from the slices of all ranks, float32, on every rank. Collective.

    All ranks give the same parameters in the same order. Many are gathered at once, see BUCKET.
    """
    bucket: list[Slice] = []
    for piece in pieces:
        alike = not bucket or _kind(piece) == _kind(bucket[0])
        if bucket and not (alike and sum(p.shape.numel() for p in (*bucket, piece)) <= BUCKET):
            yield from _gather_bucket(bucket)
            bucket = []
        bucket.append(piece)
    if bucket:
        yield from _gather_bucket(bucket)


def gather(piece: Slice) -> Tensor:
    """Return one parameter as `gathered` does. Collective: all ranks call it for the same one."""
    [whole] = gathered([piece])
    return whole


def _kind(piece: Slice) -> tuple[bool, bool]:
    """Return what decides by which collective a slice is gathered."""
    return piece.replicated, piece.share is not None


def _gather_bucket(bucket: list[Slice]) -> Iterator[Tensor]:
    """Yield the whole of some parameters whose slices are of one kind."""
    if bucket[0].replicated:
        yield from (piece.values.float().view(piece.shape) for piece in bucket)
        return

    # A slice may lie on the CPU while the ranks talk by their GPUs.
    device = bucket[0].values.device
    if dist.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    whole = _by_shares(bucket, device) if bucket[0].share is not None else _by_sums(bucket, device)
    yield from (flat.view(piece.shape) for flat, piece in zip(whole, bucket, strict=True))


def _by_shares(bucket: list[Slice], device: torch.device) -> Iterator[Tensor]:
    """Yield flat parameters of which each rank holds a share: one all-gather."""
    shares = [piece.share or 0 for piece in bucket]
    own = torch.zeros(sum(shares), dtype=torch.float32, device=device)
    for part, piece in zip(own.split(shares), bucket, strict=True):
        part[: len(piece.values)] = piece.values
    ranks = own.new_empty(dist.get_world_size() * len(own))
    dist.all_gather_into_tensor(ranks, own)
    of_each = ranks.view(-1, len(own)).split(shares, dim=1)
    for part, piece in zip(of_each, bucket, strict=True):
        yield part.flatten()[: piece.shape.numel()]


def _by_sums(bucket: list[Slice], device: torch.device) -> Iterator[Tensor]:
    """Yield flat parameters that are cut anywhere: one sum.

    Integers add exactly: the owner's bits plus zeros, whatever the float is.
    """
    sizes = [piece.shape.numel() for piece in bucket]
    bits = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
    for part, piece in zip(bits.split(sizes), bucket, strict=True):
        part[piece.start : piece.start + len(piece.values)] = piece.values.float().view(torch.int32)
    dist.all_reduce(bits)
    yield from bits.view(torch.float32).split(sizes)
