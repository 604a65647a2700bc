"""What an operation must at least do: the bytes it moves and the floating-point operations it takes."""

from typing import NamedTuple


class Cost(NamedTuple):
    """Floors of one call. Bytes: each input read once and each output written once; a multiply-add is two FLOPs."""

    forward_bytes: int
    backward_bytes: int
    forward_flops: int
    backward_flops: int
