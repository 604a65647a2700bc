"""The check that a state dict is a network's: it holds every parameter in its shape, and nothing else."""

from collections.abc import Mapping

from torch import Size, Tensor

from ..errors import CheckpointError

StateDict = Mapping[str, Tensor]


def shapes(state: StateDict) -> dict[str, Size]:
    """Return the shape of each tensor."""
    return {name: value.shape for name, value in state.items()}


def require_fit(state: StateDict, wanted: Mapping[str, Size], source: str, advice: str = "the section model") -> None:
    """Check that `state` has the `wanted` names and shapes, no more and no fewer.

    Args:
        source: where the state dict comes from, for the message.
        advice: where the sizes of the network come from, for the message.

    Raises:
        CheckpointError: it names the first four keys that are missing, unexpected or of another shape.
    """
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    differ = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name]
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", differ))
        if names
    ]
    if faults:
        raise CheckpointError(f"{source} does not fit the network (keys {'; '.join(faults)}): check {advice}")
