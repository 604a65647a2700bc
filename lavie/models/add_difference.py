"""Adding what a community checkpoint has learnt to a video network: W + scale (W_community - W_original).

All three start from the same 2-D network, so the difference of the latter two is a step in the weights that the first
can take as well (add-difference merging). Temporal parameters have no counterpart and stay.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Size, Tensor

from ..errors import CheckpointError
from .single_file import FlatUNet
from .state_dict import require_fit
from .unet import VideoUNet
from .weights import read_flat, spatial_shapes


@dataclass(frozen=True)
class DifferenceReport:
    """What was added to a network."""

    source: str
    """The file or folder of the community checkpoint."""
    original: str
    """The file or folder of the network that it was made from."""
    scale: float
    """What the difference was multiplied by."""
    changed: tuple[str, ...]
    """Parameters in which the two differ: they were changed, unless the scale is 0."""
    equal: tuple[str, ...]
    """Parameters in which the two agree: they keep every bit."""
    averaged: bool
    """Whether the averaged weights of one of the two were taken (extract_ema)."""

    def __str__(self) -> str:
        kind = ", averaged weights" if self.averaged else ""
        counts = f"{len(self.changed)} tensors differ, {len(self.equal)} are equal"
        return f"added {self.scale:g} x ({self.source} - {self.original}): {counts}{kind}"


@torch.no_grad()
def add_difference(
    network: VideoUNet, source: str | Path, original: str | Path, scale: float, *, extract_ema: bool = False
) -> DifferenceReport:
    """Add `scale` times the difference of two 2-D UNets to the spatial parameters of `network`.

    Differences are taken in float32, of values that both are rounded to in the coarser dtype of the two: what a file of
    16 bits left as it was then adds nothing. Channels of a condition in conv_in, which the 2-D UNets lack, stay. A
    parameter that does not change keeps every bit, as all of them do with a scale of 0.

    Args:
        network: the video network, of any dtype.
        source: the community checkpoint: a single file, or a folder in diffusers' format.
        original: what it was made from, likewise.
        scale: lambda; 1 moves the network as far as the community checkpoint has moved.
        extract_ema: whether the averaged weights of single files are taken; the report says whether one had some.

    Raises:
        CheckpointError: one of them is something else, does not fit, or holds values that are not finite, or a sum is
            not finite in the network's dtype. Then the network is as it was.
    """
    wanted = spatial_shapes(network)
    new, old = (_read(path, network, wanted, extract_ema) for path in (source, original))
    for name in wanted:
        if new.state[name].shape != old.state[name].shape:
            raise CheckpointError(
                f"{name} is {tuple(new.state[name].shape)} in {source} and {tuple(old.state[name].shape)} in "
                f"{original}: wanted two networks of one size"
            )

    # All values are looked at before the first one is added.
    for flat, path in ((new, source), (old, original)):
        if broken := next((name for name in sorted(wanted) if not bool(flat.state[name].isfinite().all())), None):
            raise CheckpointError(f"{path}: {broken} has values that are not finite: give another file")
    changed = {name: bool(_difference(new.state[name], old.state[name]).any()) for name in sorted(wanted)}
    parameters = network.state_dict()
    moved = [name for name, differs in changed.items() if differs and scale != 0]

    def added(name: str) -> tuple[Tensor, Tensor]:
        """Return the part of a parameter that is changed, and what it becomes, in its dtype."""
        step = scale * _difference(new.state[name], old.state[name])
        target = parameters[name][:, : step.shape[1]] if step.shape != parameters[name].shape else parameters[name]
        return target, (target.float() + step.to(target.device)).to(target.dtype)

    # The sums are made twice, for two networks need not lie in memory.
    for name in moved:
        target, total = added(name)
        if not bool(total.isfinite().all()):
            kind = str(target.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{name} + {scale:g} x ({source} - {original}) is not finite in {kind}: give a smaller scale, or "
                "weights of more bits"
            )
    for name in moved:
        target, total = added(name)
        target.copy_(total)

    return DifferenceReport(
        source=str(source),
        original=str(original),
        scale=scale,
        changed=tuple(name for name, differs in changed.items() if differs),
        equal=tuple(name for name, differs in changed.items() if not differs),
        averaged=new.averaged or old.averaged,
    )


def _read(path: str | Path, network: VideoUNet, wanted: dict[str, Size], extract_ema: bool) -> FlatUNet:
    """Return the 2-D UNet at a path; its conv_in may lack the channels of the network's condition, and nothing else."""
    flat = read_flat(path, network, extract_ema=extract_ema)
    first = flat.state.get("conv_in.weight")
    fitting = dict(wanted)
    if first is not None and first.ndim == 4 and first.shape[1] < fitting["conv_in.weight"][1]:
        fitting["conv_in.weight"] = Size((fitting["conv_in.weight"][0], first.shape[1], *fitting["conv_in.weight"][2:]))
    require_fit(flat.state, fitting, str(path))
    return flat


def _difference(new: Tensor, old: Tensor) -> Tensor:
    """Return new - old in float32, both rounded to the coarser dtype of the two."""
    coarser = max(new.dtype, old.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return new.to(coarser).float() - old.to(coarser).float()
