"""The choice of the frames of a clip out of a video, and of the part of each frame that fits the batch."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from ...errors import DataError

Crop = Literal["cover", "patch"]
"""How a frame is scaled before it is cut, as in data.crop: see `cut_scale`."""

EARLY = 0.25
"""A frame counts as shown this share of a mean frame interval before its time.

It absorbs clocks rounded to milliseconds, and 29.97 for 30 fps, where a strict "at or before" would show frames twice.
"""
TIE = 1e-6
"""Seconds by which a clip's times are moved on, so that rounding decides ties the same way at every start of a clip:
they are common, as from 30 to 8 fps."""


def clip_indices(
    times: np.ndarray, num_frames: int, *, fps: float | None = None, frame_stride: int | None = None, u: float
) -> np.ndarray:
    """Return the frames of one clip: int64 (num_frames,), strictly ascending.

    Args:
        times: float64 (frames,), when each frame of the video is shown, in seconds.
        num_frames: the frames of the clip.
        fps: take the frames shown at start + k / fps. Excludes `frame_stride`.
        frame_stride: take every n-th frame.
        u: in [0, 1), chooses the start among all that are feasible.

    Raises:
        DataError: no start is feasible.
    """
    starts = feasible_starts(times, num_frames, fps=fps, frame_stride=frame_stride)
    if not len(starts):
        rate = f"{fps:g} fps" if fps else f"frame stride {frame_stride}"
        raise DataError(
            f"{len(times)} frames over {times[-1] if len(times) else 0:.3f} s hold no clip of {num_frames} different "
            f"frames at {rate}: change data.num_frames, data.fps or data.frame_stride, or leave the video out"
        )
    return _clips(times, starts[[int(u * len(starts))]], num_frames, fps, frame_stride)[0]


def feasible_starts(
    times: np.ndarray, num_frames: int, *, fps: float | None = None, frame_stride: int | None = None
) -> np.ndarray:
    """Return the frames that a clip may start at: int64 (n,), ascending.

    From each of them, a clip lies inside the video and shows no frame twice. The arguments are those of `clip_indices`.
    """
    if (fps is None) == (frame_stride is None):
        raise ValueError(f"exactly one of fps and frame_stride, got {fps} and {frame_stride}")
    starts = np.arange(max(0, len(times) - num_frames + 1))
    clips = _clips(times, starts, num_frames, fps, frame_stride)
    return starts[(clips[:, -1] < len(times)) & (np.diff(clips, axis=1) > 0).all(axis=1)]


# Hidden state: the last 4096 answers. They depend on the arguments alone, so that they are never emptied.
@lru_cache(maxsize=4096)
def fits(frames: int, source_fps: float, num_frames: int, fps: float | None, frame_stride: int | None) -> bool:
    """Return whether a video of `frames` frames at the constant rate `source_fps` holds a clip of `num_frames`."""
    return len(feasible_starts(np.arange(frames) / source_fps, num_frames, fps=fps, frame_stride=frame_stride)) > 0


def cut_scale(source_height: int, source_width: int, height: int, width: int, crop: Crop = "cover") -> float:
    """Return the factor by which a source is scaled before height x width pixels are cut out of it.

    - cover: the smallest factor at which the source covers the cut; it has pixels to spare along one axis at most.
    - patch: 1, so that the cut is at the source's own resolution; for a source smaller than the cut, as for cover.
    """
    scale = max(height / source_height, width / source_width)
    return max(1.0, scale) if crop == "patch" else scale


def cut_box(
    source_height: int, source_width: int, height: int, width: int, u: float, v: float, crop: Crop = "cover"
) -> tuple[float, float, float, float]:
    """Return what `fit` keeps of a frame: (left, top, right, bottom) in pixels of the source.

    They are whole numbers where the source is not scaled. The arguments are those of `fit`.
    """
    scale = cut_scale(source_height, source_width, height, width, crop)
    if scale == 1:
        spare_x, spare_y = source_width - width, source_height - height
        box_x, box_y = min(int(u * (spare_x + 1)), spare_x), min(int(v * (spare_y + 1)), spare_y)
        return box_x, box_y, box_x + width, box_y + height
    box_width, box_height = min(width / scale, source_width), min(height / scale, source_height)
    x, y = u * (source_width - box_width), v * (source_height - box_height)
    return x, y, x + box_width, y + box_height


def fit(
    frames: Iterable[np.ndarray], height: int, width: int, u: float = 0.5, v: float = 0.5, crop: Crop = "cover"
) -> np.ndarray:
    """Scale each frame by `cut_scale` and cut height x width out of it: uint8 (F, height, width, 3).

    Scaling and cutting are one pass of a bicubic filter, antialiased. A cut that is not scaled keeps the source's
    pixels as they are, so its place is rounded to whole pixels.

    Args:
        frames: uint8 (F, H, W, 3), or an iterable of frames (H, W, 3).
        height: of the cut, in pixels.
        width: of the cut, in pixels.
        u: where the cut lies across, in [0, 1], within what the scaled frame has to spare; 0.5 is the centre.
        v: where it lies down, in the same way.
        crop: how the frames are scaled.
    """
    fitted = []
    for frame in frames:
        box = cut_box(frame.shape[0], frame.shape[1], height, width, u, v, crop)
        if box[2] - box[0] == width and box[3] - box[1] == height:
            x, y = int(box[0]), int(box[1])
            fitted.append(frame[y : y + height, x : x + width].copy())
        else:
            fitted.append(np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box)))
    return np.stack(fitted)


def _clips(
    times: np.ndarray, starts: np.ndarray, num_frames: int, fps: float | None, frame_stride: int | None
) -> np.ndarray:
    """Return the frames of the clips from each of `starts`: int64 (starts, num_frames).

    An index past the last frame means that the clip runs out of the video. The other arguments are those of
    `clip_indices`.
    """
    steps = np.arange(num_frames)
    if fps is None:
        assert frame_stride is not None
        return starts[:, None] + steps * frame_stride

    # The last frame is shown for a mean interval; what comes after that is out of the video.
    interval = times[-1] / (len(times) - 1) if len(times) > 1 else 1 / fps
    shown = np.append(times, times[-1:] + interval)
    targets = times[starts][:, None] + steps / fps + EARLY * interval + TIE
    return np.searchsorted(shown, targets, side="right") - 1
