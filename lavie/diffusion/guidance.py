"""Classifier-free guidance: predictions are moved away from what the network predicts without the caption."""

from torch import Tensor


def is_guided(scale: float) -> bool:
    """Return whether a scale of guidance needs the unconditional prediction too: any but 1, those below 1 included."""
    return scale != 1


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Return unconditional + scale (conditional - unconditional), of two predictions of one shape.

    This is Eq. 6 of Ho and Salimans 2022 with `scale` = 1 + w: 1 is the plain conditional prediction, 0 the
    unconditional one, and between the two lies a mixture of both.
    """
    return unconditional + scale * (conditional - unconditional)
