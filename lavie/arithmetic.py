"""How a GPU multiplies float32 numbers. CPUs compute as they always do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_arithmetic(device: torch.device, *, tf32: bool) -> None:
    """Let products of float32 numbers, in matrix products and convolutions, be of TF32 numbers from here on, or not.

    On a CPU nothing changes. That cuDNN tries its convolutions (torch.backends.cudnn.benchmark) stays off: another
    start might keep another one, and a resumed run would not have the very same losses.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


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
