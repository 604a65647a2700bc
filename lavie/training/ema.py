"""The exponential moving average of the weights, in float32; each rank averages the slices it holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import CheckpointError
from ..models.lora.adapter import plain_name
from .partition import Slice, gathered, local_slice


class EMA:
    """An exponential moving average w of the parameters p that train: w <- d w + (1 - d) p after every step.

    The decay d rises as (1 + step) / (10 + step) until it reaches `decay`: it is 2/11 = 0.18 after the first step. So
    the average forgets its random start early on.

    Attributes:
        decay: the highest d, 0 to 1.
        parameters: the parameters that train, by plain name.
        shadow: this rank's slice of the average of each, 1-D float32, by plain name.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        """Begin an average at the present weights of a DeepSpeed engine's module.

        Args:
            module: the engine's.
            decay: the highest decay.
            device: where the average lies; by default where the optimizer keeps the weights.
        """
        self.decay = decay
        self.parameters = {plain_name(name): p for name, p in module.named_parameters() if p.requires_grad}
        masters = {name: local_slice(parameter).values for name, parameter in self.parameters.items()}

        # A few long averages, of which those of the parameters are views: a step folds in all with a few launches.
        # Where this rank holds nothing of a parameter, its average is empty too.
        self.shadow = {name: master.new_empty(0, device=device) for name, master in masters.items()}
        self._masters, self._averages = [], []
        for master, names in joined(masters):
            average = master.to(device, copy=True)
            self._masters.append(master)
            self._averages.append(average)
            for name in names:
                place = masters[name].storage_offset() - master.storage_offset()
                self.shadow[name] = average[place : place + len(masters[name])]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold the weights after a step, counted from 1, into the averages."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = self._masters
        if any(master.device != average.device for master, average in zip(current, self._averages, strict=True)):
            current = [master.cpu() for master in current]  # ema_device is cpu, which waits for the GPU
        torch._foreach_lerp_(self._averages, current, 1 - decay)

    def slices(self) -> dict[str, Slice]:
        """Return this rank's slices of the averages, by plain name."""
        averages = {}
        for name, parameter in self.parameters.items():
            weights = local_slice(parameter)
            averages[name] = replace(weights, values=self.shadow[name])
        return averages

    def load(self, file: Path) -> None:
        """Take this rank's slices out of the whole averages in a safetensors file, written by any number of ranks.

        Raises:
            CheckpointError: the file lacks a parameter that trains.
        """
        with safe_open(file, framework="pt") as whole:
            missing = sorted(set(self.shadow) - set(whole.keys()))
            if missing:
                raise CheckpointError(
                    f"{file}: no average of {missing[0]} and {len(missing) - 1} others: wrong network"
                )
            for name, piece in self.slices().items():
                flat = whole.get_tensor(name).flatten()
                piece.values.copy_(flat[piece.start : piece.start + piece.values.numel()])


def joined(views: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield views of the same memory, as few as possible, each with the names of those that it holds; empty ones never.

    DeepSpeed keeps the masters of many parameters in one flat tensor. What lies between two of them is padding, and
    belongs to the joint view, too.

    Args:
        views: 1-D tensors, contiguous, by name.
    """
    by_memory: dict[tuple[int, torch.dtype], list[str]] = {}
    for name, view in views.items():
        if len(view):
            by_memory.setdefault((view.untyped_storage().data_ptr(), view.dtype), []).append(name)
    for names in by_memory.values():
        start = min(views[name].storage_offset() for name in names)
        end = max(views[name].storage_offset() + len(views[name]) for name in names)
        yield views[names[0]].detach().as_strided((end - start,), (1,), start), names


def gathered_weights(
    module: nn.Module, ema: EMA | None, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain name and the whole of weights of a DeepSpeed engine's module, float32, on each rank. Collective.

    They are the averages where `ema` has one of a parameter, else the present values. A few are whole at a time, see
    partition.BUCKET: all of them at once would take 4 bytes a parameter.

    Args:
        module: the engine's.
        ema: the average, or None.
        wanted: tells by its plain name whether a weight is; default: all are.
    """
    averages = ema.slices() if ema else {}
    chosen = [(name, p) for live, p in module.named_parameters() if wanted(name := plain_name(live))]
    slices = (averages.get(name) or local_slice(parameter) for name, parameter in chosen)
    for (name, _), whole in zip(chosen, gathered(slices), strict=True):
        yield name, whole
