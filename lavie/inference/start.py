"""What a clip starts from besides its prompt: given frames, a clip to draw over, a prompt for each segment."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True)
class GivenFrames:
    """Frames that the clip is to show, for a network that takes frames (config: `condition: frames`)."""

    frames: np.ndarray
    """uint8 (K, H, W, 3), of the clip's size."""
    places: tuple[int, ...]
    """Where in the clip each of them is shown; below 0 they count from its end, so that -1 is the last frame."""

    def at(self, num_frames: int) -> dict[int, np.ndarray]:
        """Return the frames by their places in a clip of so many frames, from 0.

        Raises:
            ConfigError: nothing of the clip would be left to make, or a place lies outside of it.
        """
        if len(set(self.places)) >= num_frames:
            raise ConfigError(
                f"got {len(set(self.places))} given frames, and the clip has {num_frames}: wanted fewer given ones "
                "(--set base.overlap=...) or a longer clip (--seconds)"
            )
        found = {place % num_frames: frame for place, frame in zip(self.places, self.frames, strict=True)}
        if not all(-num_frames <= place < num_frames for place in self.places) or len(found) < len(self.places):
            raise ConfigError(f"given frames at {self.places}: wanted different places in a clip of {num_frames}")
        return found


@dataclass(frozen=True)
class Draft:
    """A clip that sampling starts from in place of noise alone (SDEdit, Meng et al. 2022), for any base network."""

    frames: np.ndarray
    """uint8 (F, H, W, 3), of the clip's length and size."""
    strength: float
    """The share of the denoising steps that are taken, 0 .. 1: 0 keeps the clip as the autoencoder gives it back, 1
    starts from noise alone and keeps nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength: got {self.strength:g}, wanted 0 (keeps the clip) .. 1 (keeps nothing)")


@dataclass(frozen=True)
class Start:
    """What one clip starts from."""

    given: GivenFrames | None = None
    """Frames to show."""
    draft: Draft | None = None
    """A clip to draw over."""
    segments: Sequence[str] = ()
    """Prompts of the segments of a clip that is made by recursion, in place of the clip's own; the last one goes on."""

    def record(self) -> dict[str, Any]:
        """Return what tells this start from any other, as JSON values."""
        record: dict[str, Any] = {"segments": list(self.segments)}
        if self.given is not None:
            record["given"] = {"frames": _hash(self.given.frames), "places": list(self.given.places)}
        if self.draft is not None:
            record["draft"] = {"frames": _hash(self.draft.frames), "strength": self.draft.strength}
        return record


def _hash(frames: np.ndarray) -> str:
    """Return the SHA-256 of frames' shape and pixels."""
    return hashlib.sha256(f"{frames.shape}".encode() + np.ascontiguousarray(frames).tobytes()).hexdigest()
