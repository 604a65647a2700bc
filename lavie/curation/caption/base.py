"""What every captioner offers: it is asked about clips, and answers with a text or with why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Asked:
    """A clip that wants a caption."""

    row: Mapping[str, Any]
    """Its columns of `cut`."""
    pictures: np.ndarray | None
    """Its frames, uint8 (n, H, W, 3), RGB; None for a captioner that does not look."""


@dataclass(frozen=True)
class NoCaption:
    """Why a clip gets no caption."""

    reason: str
    """In the words of its class, as "no caption"."""
    detail: str = ""


class Captioner(Protocol):
    """Somebody who captions clips. The same clip gets the same caption every time."""

    name: str
    """What the column `captioner` says, as "transformers:blip-base"."""
    looks: bool
    """Whether it wants pictures."""
    cut_off: bool
    """Whether its texts may end in the middle of a sentence, for their length is limited."""
    batch: int
    """Clips that it is asked about at a time."""

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the answer for each clip, as it was given.

        Raises:
            DataError: the captioner died, hangs, or does not say what can be understood; it is not asked again.
        """
        ...
