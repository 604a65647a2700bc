"""Measures of drawn clips against what was asked for: the rendered set tells the truth about them."""

from typing import NamedTuple

import numpy as np

from ...data.prepare.synthetic import clip_caption, render_clip
from ...seeds import numpy_generator
from ..judge import judge_clip, judge_image, object_mask
from .plan import Case

SHOWN = 0.25
"""The least area of an object in a frame, as a share of its median, at which its place can be told."""
EDGE = 99
"""The percentile of gradients that tells how sharp edges are: most of a picture is flat."""


class Path(NamedTuple):
    """Where an object is and how large, frame by frame."""

    area: np.ndarray
    """float64 (F,), as a share of the frame."""
    centre: np.ndarray
    """float64 (F, 2), (across, down) as shares of the sides; NaN where less than SHOWN of the object is seen."""


def path_of(frames: np.ndarray) -> Path | None:
    """Return the path of the object that the judge sees in a clip uint8 (F, H, W, 3); None if it sees none."""
    mask = object_mask(frames)
    if mask is None:
        return None
    pixels = mask.sum(axis=(1, 2))
    height, width = mask.shape[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        across = mask.sum(axis=1) @ (np.arange(width) + 0.5) / pixels / width
        down = mask.sum(axis=2) @ (np.arange(height) + 0.5) / pixels / height
    centre = np.stack([across, down], axis=1)
    centre[pixels <= SHOWN * np.median(pixels[pixels > 0])] = np.nan
    return Path(pixels / (height * width), centre)


def image_measures(frames: np.ndarray, trained: int, case: Case) -> dict[str, float | None]:
    """Return "colour": whether an image (1, H, W, 3) has the colour that was asked for, 0 or 1."""
    return {"colour": float(judge_image(frames[0]) == case[0])}


def clip_measures(frames: np.ndarray, trained: int, case: Case) -> dict[str, float | None]:
    """Return "colour" and "direction": whether a clip shows what was asked for, 0 or 1 each."""
    colour, direction = judge_clip(frames)
    return {"colour": float(colour == case[0]), "direction": float(direction == case[2])}


def longer_measures(frames: np.ndarray, trained: int, case: Case) -> dict[str, float | None]:
    """Return measures of what a clip shows behind the number of frames that were trained.

    Args:
        frames: uint8 (F, H, W, 3).
        trained: frames of a trained clip, less than F.
        case: what was asked for.

    Returns:
        "colour" and "direction" of the frames behind `trained`, and "first_colour" and "first_direction" of those
        before, 0 or 1; "area_kept", the object's median area behind over that before, or the inverse if that is less:
        0 .. 1, 0 where no object is seen; "unsteadiness", see `unsteadiness`.
    """
    first, behind = judge_clip(frames[:trained]), judge_clip(frames[trained:])
    path = path_of(frames)
    return {
        "colour": float(behind.colour == case[0]),
        "direction": float(behind.direction == case[2]),
        "first_colour": float(first.colour == case[0]),
        "first_direction": float(first.direction == case[2]),
        "area_kept": 0.0 if path is None else _kept(path.area, trained),
        "unsteadiness": None if path is None else unsteadiness(path.centre, trained),
    }


def _kept(area: np.ndarray, trained: int) -> float:
    """Return the smaller over the larger of the median areas before and behind frame `trained`."""
    before, behind = np.median(area[:trained]), np.median(area[trained:])
    return float(min(before, behind) / max(before, behind)) if max(before, behind) > 0 else 0.0


def unsteadiness(centre: np.ndarray, start: int) -> float | None:
    """Return the root mean square of the second differences of a path, at frames `start` to the last but one.

    The first of them spans the frame before `start`, so that a jump there counts.

    Args:
        centre: (F, 2), shares of the frame's sides; NaN where the object is not seen.
        start: a frame, at least 1.

    Returns:
        shares of the side per frame squared; None where no three frames in a row show the object.
    """
    second = centre[start - 1 : -2] - 2 * centre[start:-1] + centre[start + 1 :]
    squares = (second**2).sum(axis=1)
    seen = squares[~np.isnan(squares)]
    return float(np.sqrt(seen.mean())) if len(seen) else None


def quality_measures(frames: np.ndarray, trained: int, case: Case) -> dict[str, float | None]:
    """Return the measures of `clip_measures`, and "sharpness": that of the clip over that of a rendered one."""
    colour, shape, direction = case
    caption = clip_caption(colour, shape, f"moving {direction}")
    height, width = frames.shape[1:3]
    rng = numpy_generator(0, f"sharp {caption}")
    true = render_clip(colour, shape, f"moving {direction}", rng=rng, frames=len(frames), size=min(height, width))
    return {**clip_measures(frames, trained, case), "sharpness": sharpness(frames) / sharpness(true)}


def sharpness(frames: np.ndarray) -> float:
    """Return the mean over frames uint8 (F, H, W, 3) of the 99th percentile of grey's gradient, in levels a pixel."""
    down, across = np.gradient(frames.mean(axis=-1), axis=(1, 2))
    return float(np.percentile(np.hypot(down, across), EDGE, axis=(1, 2)).mean())
