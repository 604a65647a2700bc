"""Classifier-free guidance: predictions are moved away from what the network predicts without the caption."""

from torch import Tensor


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Return unconditional + scale (conditional - unconditional), of two predictions of one shape.

    This is Eq. 6 of Ho and Salimans 2022 with `scale` = 1 + w: 1 is the plain conditional prediction, 0 the
    unconditional one.
    """
    return unconditional + scale * (conditional - unconditional)
