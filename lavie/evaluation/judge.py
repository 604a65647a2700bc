"""The judge of the demo set: it tells the colour and the direction of a clip's object from the pixels alone."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..data.prepare.synthetic import COLOURS

MIN_CHROMA = 40.0
"""The least distance in chroma of an object from the background, of 208 between full red and grey."""
MIN_CONTRAST = 4.0
"""The least distance in chroma of an object from the background, as a multiple of the border's median distance.

White noise reaches 2.8: the top 1 % of a Rayleigh law.
"""
MIN_AREA, MAX_AREA = 0.003, 0.6
"""Bounds on an object's share of the picture."""
MIN_MOVEMENT = 0.1
"""The least movement that counts as a direction, as a share of the picture's side."""


class Verdict(NamedTuple):
    """What is seen in a clip; None where nothing can be told."""

    colour: str | None
    """The name of one of the colours that the judge tells apart."""
    direction: str | None
    """A name in `lavie.data.prepare.synthetic.DIRECTIONS`: left, right, up or down."""


def judge_clip(frames: np.ndarray, colours: Mapping[str, tuple[int, int, int]] = COLOURS) -> Verdict:
    """Return the colour and the direction of the object that stands out from the background of a clip.

    1. Colour is compared as chroma, pixels less their own grey, so that light and shade do not count.
    2. The background is the median of the border.
    3. The object is what lies more than half as far from the background as the most distant percent of the pixels. One
       that is too near to the background, too small or too large is none.

    Args:
        frames: uint8 (F, H, W, 3).
        colours: those that are told apart: name -> (red, green, blue), each 0 to 255.
    """
    seen = _object(frames)
    if seen is None:
        return Verdict(None, None)
    return Verdict(_majority_colour(seen.chroma[seen.distance > 0.75 * seen.top], colours), _direction(seen.mask))


def object_mask(frames: np.ndarray) -> np.ndarray | None:
    """Return where the judge sees the object of a clip uint8 (F, H, W, 3): bool (F, H, W); None if it sees none."""
    seen = _object(frames)
    return None if seen is None else seen.mask


class _Object(NamedTuple):
    """An object that stands out from the background of a clip."""

    mask: np.ndarray
    """bool (F, H, W): its pixels."""
    chroma: np.ndarray
    """float32 (F, H, W, 3): the clip's chroma, blurred."""
    distance: np.ndarray
    """float32 (F, H, W): of that from the background's."""
    top: float
    """The mean distance of the most distant percent of the pixels."""


def _object(frames: np.ndarray) -> _Object | None:
    """Return the object in a clip uint8 (F, H, W, 3), or None; the rules are those of `judge_clip`."""
    chroma = _blurred(_chroma(frames))
    border = _border(chroma)
    background = np.median(border, axis=0)
    distance = np.linalg.norm(chroma - background, axis=-1)
    top = np.sort(distance, axis=None)[-max(1, distance.size // 100) :].mean()
    noise = np.median(np.linalg.norm(border - background, axis=-1))
    mask = distance > top / 2
    if top < max(MIN_CHROMA, MIN_CONTRAST * noise) or not MIN_AREA < mask.mean() < MAX_AREA:
        return None
    return _Object(mask, chroma, distance, top)


def judge_image(frame: np.ndarray) -> str | None:
    """Return the colour of the object in an image, uint8 (H, W, 3)."""
    return judge_clip(frame[None]).colour


def _chroma(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (..., 3) less their grey, float32."""
    pixels = pixels.astype(np.float32)
    return pixels - pixels.mean(axis=-1, keepdims=True)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    """Blur each frame (F, H, W, 3) with a box of 3 pixels at size 32 and 5 at 64: noise is smaller than objects."""
    radius = max(1, min(pixels.shape[1:3]) // 32)
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (radius, radius)
        padded = np.pad(pixels, padding, mode="edge")
        pixels = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis).mean(axis=-1)
    return pixels


def _border(pixels: np.ndarray) -> np.ndarray:
    """Return the outermost sixteenth of all frames (F, H, W, 3) on each side: (n, 3)."""
    height, width = pixels.shape[1:3]
    inside = np.zeros((height, width), bool)
    inside[height // 16 + 1 : -(height // 16) - 1, width // 16 + 1 : -(width // 16) - 1] = True
    return pixels[:, ~inside].reshape(-1, 3)


def _majority_colour(chroma: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> str | None:
    """Return the colour nearest in hue to more than half of the pixels, by their chroma (n, 3).

    None if there is no such colour: half red, half blue is not magenta.
    """
    references = _chroma(np.array(list(colours.values())))
    cosines = chroma @ (references / np.linalg.norm(references, axis=-1, keepdims=True)).T
    votes = np.bincount(cosines.argmax(axis=-1), minlength=len(colours))
    return list(colours)[votes.argmax()] if 2 * votes.max() > len(chroma) else None


def _direction(mask: np.ndarray) -> str | None:
    """Return the direction in which a mask (F, H, W) moves; None if it moves too little.

    1. Frames that show less than a quarter of the object's median area do not count.
    2. A straight line is laid through the mask's centroids in the others.
    3. The axis along which that line moves further decides.
    """
    area = mask.sum(axis=(1, 2))
    shown = np.flatnonzero(area > 0.25 * np.median(area[area > 0]))
    if len(shown) < 2:
        return None
    height, width = mask.shape[1:]
    x = (mask.sum(axis=1) @ np.arange(width))[shown] / area[shown] / width
    y = (mask.sum(axis=2) @ np.arange(height))[shown] / area[shown] / height
    moved_x, moved_y = np.polyfit(shown, np.stack([x, y], axis=1), 1)[0] * (len(mask) - 1)
    if max(abs(moved_x), abs(moved_y)) < MIN_MOVEMENT:
        return None
    if abs(moved_x) > abs(moved_y):
        return "right" if moved_x > 0 else "left"
    return "down" if moved_y > 0 else "up"
