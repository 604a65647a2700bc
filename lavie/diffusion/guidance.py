"""Classifier-free guidance: away from what the network predicts without the caption."""

from torch import Tensor


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional), of two predictions of one shape.

    Ho and Salimans 2022, with `scale` = 1 + w of their Eq. 6: 1 is the plain conditional prediction, 0 the
    unconditional one.
    """
    return unconditional + scale * (conditional - unconditional)
