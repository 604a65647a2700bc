"""The judge of the demo set: which colour the object of a clip has and which way it moves, from the pixels alone."""

from typing import NamedTuple

import numpy as np

from ..data.prepare.synthetic import COLOURS

MIN_CHROMA = 40.0
"""An object's least chroma distance from the background, of 208 between full red and grey."""
MIN_CONTRAST = 4.0
"""Its least distance in medians of the border's own. White noise reaches 2.8: the top 1 % of a Rayleigh law."""
MIN_AREA, MAX_AREA = 0.003, 0.6
"""Bounds on its share of the picture."""
MIN_MOVEMENT = 0.1
"""Least movement that is a direction, as a share of the picture's side."""


class Verdict(NamedTuple):
    """What is seen; None where nothing can be told."""

    colour: str | None
    """A name in `lavie.data.prepare.synthetic.COLOURS`."""
    direction: str | None
    """A name in `lavie.data.prepare.synthetic.DIRECTIONS`: left, right, up or down."""


def judge_clip(frames: np.ndarray) -> Verdict:
    """The colour and the direction of the object that stands out from the background of a clip, uint8 (F, H, W, 3).

    Colour is compared as chroma, pixels less their own grey, so that light and shade do not count. The background is
    the median of the border. The object is what lies more than half as far from it as the most distant percent of the
    pixels.
    """
    chroma = _blurred(_chroma(frames))
    border = _border(chroma)
    background = np.median(border, axis=0)
    distance = np.linalg.norm(chroma - background, axis=-1)
    top = np.sort(distance, axis=None)[-max(1, distance.size // 100) :].mean()
    unrest = np.median(np.linalg.norm(border - background, axis=-1))
    mask = distance > top / 2
    if top < max(MIN_CHROMA, MIN_CONTRAST * unrest) or not MIN_AREA < mask.mean() < MAX_AREA:
        return Verdict(None, None)
    return Verdict(_majority_colour(chroma[distance > 0.75 * top]), _direction(mask))


def judge_image(frame: np.ndarray) -> str | None:
    """The colour of the object in an image, uint8 (H, W, 3)."""
    return judge_clip(frame[None]).colour


def _chroma(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.astype(np.float32)
    return pixels - pixels.mean(axis=-1, keepdims=True)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    """Box blur of each frame (F, H, W, 3), 3 pixels wide at 32 and 5 at 64: noise is smaller than objects."""
    radius = max(1, min(pixels.shape[1:3]) // 32)
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (radius, radius)
        padded = np.pad(pixels, padding, mode="edge")
        pixels = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis).mean(axis=-1)
    return pixels


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outermost sixteenth of (F, H, W, 3) on each side, all frames: (n, 3)."""
    height, width = pixels.shape[1:3]
    inside = np.zeros((height, width), bool)
    inside[height // 16 + 1 : -(height // 16) - 1, width // 16 + 1 : -(width // 16) - 1] = True
    return pixels[:, ~inside].reshape(-1, 3)


def _majority_colour(chroma: np.ndarray) -> str | None:
    """The colour nearest in hue to more than half of the pixels' chroma (n, 3): half red, half blue is not magenta."""
    references = _chroma(np.array(list(COLOURS.values())))
    cosines = chroma @ (references / np.linalg.norm(references, axis=-1, keepdims=True)).T
    votes = np.bincount(cosines.argmax(axis=-1), minlength=len(COLOURS))
    return list(COLOURS)[votes.argmax()] if 2 * votes.max() > len(chroma) else None


def _direction(mask: np.ndarray) -> str | None:
    """Of the straight line through the centroids of a mask (F, H, W), over the frames that show most of the object."""
    area = mask.sum(axis=(1, 2))
    shown = np.flatnonzero(area > 0.25 * np.median(area[area > 0]))
    if len(shown) < 2:
        return None
    height, width = mask.shape[1:]
    x = (mask.sum(axis=1) @ np.arange(width))[shown] / area[shown] / width
    y = (mask.sum(axis=2) @ np.arange(height))[shown] / area[shown] / height
    right, down = np.polyfit(shown, np.stack([x, y], axis=1), 1)[0] * (len(mask) - 1)
    if max(abs(right), abs(down)) < MIN_MOVEMENT:
        return None
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"
