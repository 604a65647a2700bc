"""What a base network that takes frames reads beside the noisy latents: which frames are given, and their latents.

The form is SEINE's (Chen et al., 2024): the network's input channels are [noisy latents C | mask 1 | latents C]. The
mask is 0 where a frame is given and 1 where it is to be made; the latents are those of the given frames, and of grey
pixels elsewhere. One network so serves every choice of frames, none included.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..carry import carry
from ..config.condition import GivenConfig

GIVEN, MADE = 0.0, 1.0
"""The mask at a frame that is given, and at one that is to be made."""


def draw_given(config: GivenConfig, frames: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return which frames of a training clip are given, ascending.

    Args:
        config: how often which frames are.
        frames: of the clip, at least 3: one lies between the first and the last.
        rng: the source of the choice.
    """
    shares = np.cumsum([config.none, config.first, config.first_and_last, config.random])
    kind = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    if kind == 0:
        return ()
    if kind == 1:
        return tuple(range(int(rng.integers(1, min(config.most_first, frames - 1) + 1))))
    if kind == 2:
        return 0, frames - 1
    count = int(rng.integers(1, frames))
    return tuple(int(place) for place in np.sort(rng.choice(frames, count, replace=False)))


def given_mask(given: Sequence[Sequence[int]], frames: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the mask of clips: float32 (B, frames), GIVEN at the frames `given` of each clip and MADE elsewhere."""
    mask = torch.full((len(given), frames), MADE)
    for row, places in zip(mask, given, strict=True):
        row[list(places)] = GIVEN
    return carry(mask, torch.device(device))


def frame_condition(latents: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
    """Return the condition's channels, mask and masked latents: float32 (B, 1 + C, F, h, w).

    Args:
        latents: (B, C, F, h, w); what they hold at frames that are to be made is not read.
        mask: (B, F) of GIVEN and MADE.
        empty: (C, h, w), the latents of a frame of grey pixels (0 in -1 .. 1).
    """
    planes = mask[:, None, :, None, None]
    masked = torch.where(planes == GIVEN, latents, empty[:, None])
    return torch.cat([planes.expand_as(masked[:, :1]), masked], 1).float()
