"""Images and clips of strangers that a sample is to start from, decoded in the sandbox to the size of the sample."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import ConfigError, DataError
from ..media.clips import clip_indices, fit
from ..media.decode import indexed_times, read_frames
from ..media.image import decode_image
from .sandbox import probe, run_sandboxed

MAX_BYTES = 1 << 30
"""The largest file that is read, 1 GiB: it is held in memory twice."""
START, END = 0.0, 1 - 1e-9
"""Where in a video a clip is taken from, as the number that `clip_indices` chooses by."""


def read_still(path: Path, height: int, width: int, *, flag: str) -> np.ndarray:
    """Return an image, scaled and cut in its centre to a size: uint8 (height, width, 3), sRGB.

    Args:
        path: a jpg, png or gif of one frame.
        height, width: in pixels.
        flag: the option that names the file, for the message.

    Raises:
        ConfigError: the file cannot be read or decoded, or has more frames than one.
    """
    data = _read(path, flag)
    try:
        info = probe(data)
        if info.kind != "image":
            instead = "--from-video takes it, or " if flag == "--image" else ""
            raise DataError(f"{info.frames} frames, where an image is wanted: {instead}cut one frame out as a png")
        return run_sandboxed(fitted_image, data, height, width)
    except DataError as error:
        raise ConfigError(f"{flag} {path}: {error}") from None


def read_clip(
    path: Path, frames: int, fps: float, height: int, width: int, *, flag: str, at_end: bool = False
) -> np.ndarray:
    """Return a clip of a video, scaled and cut in its centre to a size: uint8 (frames, height, width, 3).

    Args:
        path: the video.
        frames: of the clip.
        fps: at which the clip's frames are taken, whatever the video's own rate is.
        height, width: in pixels.
        flag: the option that names the file, for the message.
        at_end: whether the clip ends the video; it begins it otherwise.

    Raises:
        ConfigError: the file cannot be read or decoded, is no video, or is too short.
    """
    data = _read(path, flag)
    try:
        info = probe(data)
        if info.kind != "video":
            raise DataError("an image, where a video is wanted: --image takes it")
        times = np.asarray(run_sandboxed(indexed_times, data, info.frames, info.fps, info.vfr))
    except DataError as error:
        raise ConfigError(f"{flag} {path}: {error}") from None
    try:
        indices = clip_indices(times, frames, fps=fps, u=END if at_end else START)
    except DataError:
        raise ConfigError(
            f"{flag} {path}: {info.frames} frames in {info.duration:.3g} s hold no {frames} different ones at {fps:g} "
            "frames per second: wanted a longer video, one of a higher rate, or --set base.fps=..."
        ) from None
    try:
        return run_sandboxed(fitted_frames, data, indices.tolist(), height, width)
    except DataError as error:
        raise ConfigError(f"{flag} {path}: {error}") from None


def fitted_image(data: bytes, height: int, width: int) -> np.ndarray:
    """Return the pixels of an image in a size; runs in the child."""
    return fit([decode_image(data)], height, width)[0]


def fitted_frames(data: bytes, indices: Sequence[int], height: int, width: int) -> np.ndarray:
    """Return frames of a video in a size, of which one at a time is held whole; runs in the child."""
    return fit(read_frames(data, indices), height, width)


def _read(path: Path, flag: str) -> bytes:
    """Return the bytes of a file; ConfigError if it cannot be read, or is too large."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{flag} {path}: {size} bytes, wanted at most {MAX_BYTES}: cut the video first")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {path}: cannot be read: {error.strerror}") from None
