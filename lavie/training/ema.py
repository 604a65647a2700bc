"""The exponential moving average of the weights, in float32 on their device; each rank averages the slices it holds."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import CheckpointError
from .partition import Slice, gather, local_slice


class EMA:
    """An exponential moving average of the parameters that train: w <- d w + (1 - d) p after every step.

    The decay d rises as (1 + step) / (10 + step) until it reaches `decay`: it is 2/11 = 0.18 after the first step. So
    the average forgets its random start early on.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shadow = {name: local_slice(p).values.clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold in the weights after `step` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [local_slice(p).values for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    def slices(self) -> dict[str, Slice]:
        """The averages as slices, by parameter name."""
        held = {name: local_slice(p) for name, p in self.parameters.items()}
        return {name: Slice(s.shape, s.start, self.shadow[name], s.replicated) for name, s in held.items()}

    def load(self, file: Path) -> None:
        """Take this rank's slices out of whole averages in a safetensors file, on any number of ranks."""
        with safe_open(file, framework="pt") as whole:
            missing = sorted(set(self.shadow) - set(whole.keys()))
            if missing:
                raise CheckpointError(
                    f"{file}: no average of {missing[0]} and {len(missing) - 1} others: wrong network"
                )
            for name, piece in self.slices().items():
                flat = whole.get_tensor(name).flatten()
                piece.values.copy_(flat[piece.start : piece.start + piece.values.numel()])


def gathered_weights(module: nn.Module, ema: EMA | None) -> dict[str, Tensor]:
    """Whole float32 weights by name, averaged where an average is kept. All ranks call it together."""
    averages = ema.slices() if ema else {}
    return {name: gather(averages.get(name) or local_slice(p)) for name, p in module.named_parameters()}
