"""Checks that weights and what a network gives are numbers: NaN and infinity often end in a score like any other."""

from collections.abc import Iterable

from torch import Tensor

from ..errors import CheckpointError


def require_finite(weights: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Raise CheckpointError, which names the first of the weights, if one holds NaN or infinity.

    Args:
        weights: each with its name.
        source: where they come from, for the message.
    """
    for name, value in weights:
        if not value.isfinite().all():
            raise CheckpointError(f"{source}: {name} holds NaN or infinity: wanted another file")


def require_numbers(values: Tensor, source: str) -> Tensor:
    """Return what a network gave. Raises CheckpointError if NaN or infinity is in it; see `require_finite`."""
    if not values.isfinite().all():
        raise CheckpointError(f"{source} gives NaN or infinity for a clip that can be read: wanted other weights")
    return values
