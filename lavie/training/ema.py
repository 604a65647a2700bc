"""The exponential moving average of the weights, in float32; each rank averages the slices it holds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import CheckpointError
from ..models.lora.adapter import plain_name
from .partition import Slice, gather, local_slice


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
        self.shadow = {name: local_slice(p).values.to(device, copy=True) for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold the weights after a step, counted from 1, into the averages."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [local_slice(p).values.to(self.shadow[name].device) for name, p in self.parameters.items()]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    def slices(self) -> dict[str, Slice]:
        """Return this rank's slices of the averages, by plain name."""
        averages = {}
        for name, parameter in self.parameters.items():
            weights = local_slice(parameter)
            averages[name] = Slice(weights.shape, weights.start, self.shadow[name], weights.replicated)
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


def gathered_weights(
    module: nn.Module, ema: EMA | None, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain name and the whole of weights of a DeepSpeed engine's module, float32, on each rank. Collective.

    They are the averages where `ema` has one of a parameter, else the present values. One is whole at a time: all of
    them at once would take 4 bytes a parameter.

    Args:
        module: the engine's.
        ema: the average, or None.
        wanted: tells by its plain name whether a weight is; default: all are.
    """
    averages = ema.slices() if ema else {}
    for live, parameter in module.named_parameters():
        if wanted(name := plain_name(live)):
            yield name, gather(averages.get(name) or local_slice(parameter))
