"""An image becomes a clip: a cut of it wanders as in a camera held by hand (paper, section 5.2)."""

import numpy as np
from PIL import Image

MEMORY = 0.9
"""How much of its velocity the camera keeps from one frame to the next: it wavers over some ten frames, and does not
jitter."""


def camera_path(num_frames: int, speed: float, room: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Where the cut lies in each frame: float64 (num_frames, 2), (across, down) in pixels, inside [0, room].

    The velocity is white Gaussian noise through a first-order low-pass filter; its root mean square, both axes
    together, is `speed` pixels per frame. Along each axis the start is drawn among all that keep the path inside. Where
    the room is too small for any, the path is reflected at its ends; no room means no movement.
    """
    white = generator.normal(0, speed / np.sqrt(2), (num_frames, 2))
    velocity = np.zeros((num_frames, 2))
    velocity[0] = white[0]
    for frame in range(1, num_frames):
        velocity[frame] = MEMORY * velocity[frame - 1] + np.sqrt(1 - MEMORY**2) * white[frame]
    walk = np.cumsum(velocity, axis=0)
    place = generator.uniform(size=2)
    return np.stack([_inside(walk[:, axis], room[axis], place[axis]) for axis in range(2)], axis=1)


def moving_clip(image: np.ndarray, path: np.ndarray, height: int, width: int, scale: float = 1.0) -> np.ndarray:
    """The cuts of an image along a path: uint8 (F, height, width, 3).

    image: uint8 (H, W, 3). path: float64 (F, 2), (across, down) offsets of the cut in the image scaled by `scale`,
    within [0, scale * W - width] and [0, scale * H - height], so that no cut reaches past the border. Scaling and
    sub-pixel shifts are one pass of a Lanczos filter, antialiased.

    Raises ValueError if a cut leaves the image by more than rounding.
    """
    room = np.array([scale * image.shape[1] - width, scale * image.shape[0] - height])
    if (path < -1e-6).any() or (path > room + 1e-6).any():
        raise ValueError(f"a path from {path.min(0)} to {path.max(0)} leaves the room of {room} pixels")
    source, size = Image.fromarray(image), np.array([width, height])
    clip = []
    for offset in path:
        low = np.maximum(offset / scale, 0)
        high = np.minimum((offset + size) / scale, source.size)
        # Lanczos, as bicubic would make frames at half a pixel visibly softer than their neighbours.
        clip.append(np.asarray(source.resize((width, height), Image.Resampling.LANCZOS, (*low, *high))))
    return np.stack(clip)


def _inside(walk: np.ndarray, room: float, place: float) -> np.ndarray:
    """The walk (F,), moved or else reflected into [0, room]; `place` in [0, 1) chooses among the feasible starts."""
    spare = room - np.ptp(walk)
    if spare >= 0:
        return np.clip(walk - walk.min() + place * spare, 0, room)
    if room <= 0:
        return np.zeros_like(walk)
    folded = (walk + place * room) % (2 * room)
    return np.minimum(folded, 2 * room - folded)
