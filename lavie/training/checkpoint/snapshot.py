"""A copy of a run's state in the memory of its ranks, from which a checkpoint is written while the run goes on."""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...distributed import is_main, rank, world_size
from ...models.lora.adapter import is_adapter, plain_name
from ...tensor_file import size_of
from ..ema import EMA, gathered_weights
from .ranges import RANGES, own_share
from .state import AVERAGE, MOMENTS, WEIGHTS, held_by, moments_of, opaque_states


class Snapshot:
    """The host's memory for a copy of the state, which is made anew for every checkpoint and allocated once.

    Attributes:
        own: what this rank writes of the state, as lavie.training.checkpoint.ranges describes its file.
        ranges: the header's ranges of `own`: [start, end] of the flattened parameter, by parameter.
        network: on rank 0, the network to sample from: its weights as float32, by plain name; elsewhere empty. Of a
            network with adapters, these alone.
    """

    def __init__(self, keep: bool) -> None:
        """Begin an empty snapshot.

        Args:
            keep: whether tensors of the CPU are copied too. Without it they are views of the state, and are to be
                written before the run goes on.
        """
        self._keep = keep
        self._host: dict[str, Tensor] = {}
        self.own: dict[str, Tensor] = {}
        self.ranges: dict[str, tuple[int, int]] = {}
        self.network: dict[str, Tensor] = {}

    @property
    def header(self) -> dict[str, str]:
        """The metadata of this rank's file."""
        return _header(self.ranges)

    @torch.no_grad()
    def take(self, engine: Any, ema: EMA | None, *, elastic: bool) -> None:
        """Copy the state of an engine, and of the average of its weights. Collective.

        Args:
            engine: DeepSpeed's.
            ema: the average, if the run keeps one.
            elastic: whether the optimizer has one value of each moment for each weight.
        """
        self.own, self.network = {}, {}
        views, self.ranges = _own_part(engine, ema, elastic)
        for name, values in views.items():
            self._copy(self.own, name, values)

        # All ranks gather a weight at a time, and one keeps it.
        for name, weight in gathered_weights(engine.module, ema, kept_by_name(engine.module)):
            if is_main():
                self._copy(self.network, name, weight, prefix="network/")
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _copy(self, target: dict[str, Tensor], name: str, values: Tensor, prefix: str = "") -> None:
        """Put a copy of a tensor on the host into `target`; from a GPU it may still be on its way."""
        if not self._keep and values.device.type == "cpu":
            target[name] = values.detach()
            return
        host = self._host.get(prefix + name)
        if host is None or host.shape != values.shape or host.dtype != values.dtype:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._host[prefix + name] = host
        target[name] = host.copy_(values, non_blocking=True)


def kept_by_name(module: nn.Module) -> Callable[[str], bool]:
    """Return what tells by its plain name whether a checkpoint keeps a weight in its network to sample from.

    Of a network with adapters it keeps these alone: the others are those that the run started from.
    """
    return is_adapter if any(is_adapter(name) for name, _ in module.named_parameters()) else lambda name: True


def bytes_needed(engine: Any, ema: EMA | None, *, elastic: bool) -> int:
    """Return how many bytes a checkpoint of an engine takes on the disk, but for texts of a few kB.

    The heads of the other ranks' files are taken to be as long as this rank's.
    """
    own, ranges = _own_part(engine, ema, elastic)
    head = size_of(own, _header(ranges)) - sum(values.nbytes for values in own.values())
    network: dict[str, Tensor] = {}
    state, kept = 0, kept_by_name(engine.module)
    averaged = bool(ema) and _averages_apart(engine)
    for live, parameter in engine.module.named_parameters():
        name = plain_name(live)
        whole = torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta")
        if kept(name):
            network[name] = whole
        if parameter.requires_grad:
            state += whole.nbytes * ((1 + len(MOMENTS) if elastic else 2) + averaged)
    return size_of(network) + state + world_size() * head


def _averages_apart(engine: Any) -> bool:
    """Return whether averages are part of the state: the file of adapters, scaled, does not hold them bit for bit."""
    return any(is_adapter(held.name) for held in held_by(engine))


def _own_part(engine: Any, ema: EMA | None, elastic: bool) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """Return views of what this rank writes of a state, by kind and parameter, and the ranges of its parameters."""
    views: dict[str, Tensor] = {}
    ranges: dict[str, tuple[int, int]] = {}
    averages = ema.shadow if ema and _averages_apart(engine) else {}
    for held in held_by(engine):
        first, last = own_share(held.start, held.length, held.replicated, rank(), world_size())
        if first == last:
            continue
        ranges[held.name] = (held.start + first, held.start + last)
        moments = moments_of(engine, held) if elastic else {}
        for kind, values in {WEIGHTS: held.of(held.flat.detach()), **moments}.items():
            views[f"{kind}/{held.name}"] = values[first:last]
        if held.name in averages:
            views[f"{AVERAGE}/{held.name}"] = averages[held.name][first:last]
    return views | ({} if elastic else opaque_states(engine)), ranges


def _header(ranges: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Return the metadata of a rank's file, without its nonce."""
    return {RANGES: json.dumps(ranges, separators=(",", ":"))}
