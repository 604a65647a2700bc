"""A camera held by hand that films an image: a cut of the image wanders, and so makes a clip (paper, section 5.2)."""

import numpy as np
from PIL import Image

MEMORY = 0.9
"""The share of its velocity, 0 to 1, that the camera keeps from one frame to the next: it wavers over some ten frames
and does not jitter."""


def camera_path(num_frames: int, speed: float, room: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Draw where the cut lies in each frame: float64 (num_frames, 2), (across, down) in pixels, inside [0, room].

    1. The velocity is white Gaussian noise through a first-order low-pass filter.
    2. Along each axis the start is drawn among all that keep the path inside the room.
    3. Where the room is too small for any start, the path is reflected at the ends of the room.

    Args:
        num_frames: the frames of the clip.
        speed: the root mean square of the velocity, both axes together, in pixels per frame.
        room: how far the cut can move (across, down), in pixels; 0 means no movement along that axis.
        generator: the source of the path; the same generator state gives the same path.
    """
    noise = generator.normal(0, speed / np.sqrt(2), (num_frames, 2))
    velocity = np.zeros((num_frames, 2))
    velocity[0] = noise[0]
    # The factor of the noise keeps the variance of the velocity the same in every frame.
    for frame in range(1, num_frames):
        velocity[frame] = MEMORY * velocity[frame - 1] + np.sqrt(1 - MEMORY**2) * noise[frame]
    walk = np.cumsum(velocity, axis=0)
    start = generator.uniform(size=2)
    return np.stack([_inside(walk[:, axis], room[axis], start[axis]) for axis in range(2)], axis=1)


def moving_clip(image: np.ndarray, path: np.ndarray, height: int, width: int, scale: float = 1.0) -> np.ndarray:
    """Return the cuts of an image along a path: uint8 (F, height, width, 3).

    Scaling and sub-pixel shifts are one pass of a Lanczos filter, antialiased. No cut reaches past the border.

    Args:
        image: uint8 (H, W, 3).
        path: float64 (F, 2), the offsets (across, down) of the cuts in the scaled image, within
            [0, scale * W - width] and [0, scale * H - height].
        height: of the cut, in pixels.
        width: of the cut, in pixels.
        scale: the factor by which the image is scaled before it is cut.

    Raises:
        ValueError: a cut leaves the image by more than rounding.
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


def _inside(walk: np.ndarray, room: float, start: float) -> np.ndarray:
    """Move, or else reflect, a walk along one axis into [0, room].

    Args:
        walk: (F,), positions in pixels, from an arbitrary origin.
        room: the largest position.
        start: in [0, 1), chooses among the feasible starts.
    """
    spare = room - np.ptp(walk)
    if spare >= 0:
        return np.clip(walk - walk.min() + start * spare, 0, room)
    if room <= 0:
        return np.zeros_like(walk)
    folded = (walk + start * room) % (2 * room)
    return np.minimum(folded, 2 * room - folded)
