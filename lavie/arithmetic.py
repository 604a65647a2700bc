"""How a GPU multiplies float32 numbers, and how cuDNN chooses its convolutions. CPUs compute as they always do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_arithmetic(device: torch.device, *, tf32: bool) -> None:
    """Set how this process computes on a device from here on; on a CPU nothing changes.

    1. Products of float32 numbers, in matrix products and convolutions, are of TF32 numbers if `tf32` says so.
    2. cuDNN tries its convolutions at the first call of each shape, and keeps the fastest. Another start may keep
       another one, so that runs on a GPU repeat up to rounding.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 numbers as they are within the block: TF32 would move a cosine in the fourth digit."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
