"""A drawn clip is made of numbers: NaN and infinity would be written as black pixels, and nobody would be told."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import ConfigError

CAUSES = (
    "a --lora whose scale is too large, an --embedding of huge numbers, weights that diverged or are damaged, or "
    "float16, which ends at 65504; wanted smaller scales, other weights, or bfloat16 or float32"
)
"""What makes a sampler draw what is no number, and what helps."""


class NotFiniteError(ConfigError):
    """A clip was drawn whose latents or pixels are not finite."""


def is_finite(values: Tensor) -> Tensor:
    """Return whether all values are finite, bool () on their device: nothing waits for it."""
    return values.isfinite().all()


def require_finite_clip(latents: Tensor, pixels: Tensor) -> None:
    """Check what was drawn, with one read from the device.

    Args:
        latents: bool () on the device, whether those that were denoised are finite.
        pixels: bool () there, whether those that the autoencoder made of them are.

    Raises:
        NotFiniteError: says which of the two are not.
    """
    of_latents, of_pixels = torch.stack([latents, pixels]).tolist()
    if not of_latents:
        raise NotFiniteError(f"the denoised latents are not finite (NaN or infinity): likely {CAUSES}")
    if not of_pixels:
        raise NotFiniteError(
            "the latents are finite, and the pixels that the autoencoder decodes from them are not: its weights are "
            f"damaged, the latents are huge, or it overflows in 16 bits: likely {CAUSES}"
        )


@contextmanager
def naming_clip(what: str) -> Iterator[None]:
    """Put the name of a clip and its stage before a NotFiniteError of the block."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{what}: {error}; nothing of this clip is written") from None
