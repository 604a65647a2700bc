"""What a clip's file holds, found by decoding it as every later reader does, and held against what it was made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from ...data.media.decode import checked_frames, frame_rate, from_zero, interlaced_note, notes_of
from ...data.media.shown import Shape, shown_size
from ...data.media.streams import MAX_FRAMES, open_video, other_films
from ...errors import DataError
from ..checksum import frame_checksum
from .exact import Identity

LEAST_PSNR = 25.0
"""Decibels by which the ends of an encoded clip agree at least with the film: crf 18 gives 40 and more, another picture
10 to 20."""

Look = Callable[[int, av.VideoFrame], None]
"""What looks at each decoded frame, with its number in the clip, and raises a DataError."""


@dataclass(frozen=True)
class Appearance:
    """How the frames of a file are to be shown; a copy must tell the same as its film."""

    size: tuple[int, int]
    """Width and height as shown."""
    colours: tuple[int, ...]
    """Matrix, range, transfer and primaries, by their numbers in FFmpeg."""

    @staticmethod
    def of(frame: av.VideoFrame, shape: Shape) -> "Appearance":
        """Return the appearance of a frame."""
        tags = (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries)
        return Appearance(shown_size(frame, shape), tuple(int(tag) for tag in tags))


def examine(data: bytes, times: np.ndarray, look: Look, wanted: Appearance | None = None) -> dict[str, Any]:
    """Decode a clip and return its facts: frames, fps, vfr, duration, width, height, codec, and remarks.

    The remarks are those that `MediaInfo.notes` has of the file.

    Args:
        data: the file.
        times: float64 (F,), when each frame is to be shown, seconds from 0.
        look: looks at each frame.
        wanted: how they are to be shown; None for any.

    Raises:
        DataError: the file is damaged, or holds other frames, at other times, or shown otherwise.
    """
    found: list[float] = []
    interlaced = 0
    with open_video(data) as (container, stream):
        for number, (frame, shape) in enumerate(checked_frames(stream, container.demux(stream), MAX_FRAMES)):
            if number >= len(times):
                raise DataError(f"it has more than {len(times)} frames")
            if not number:
                appearance = Appearance.of(frame, shape)
                if wanted is not None and appearance != wanted:
                    raise DataError(f"it is shown as {appearance}, its film as {wanted}")
                tick = float(frame.time_base or 0)
                notes = notes_of(frame, shape, stream, other_films(container, stream))
            look(number, frame)
            interlaced += frame.interlaced_frame
            found.append(frame.time)
        nominal = float(stream.average_rate) if stream.average_rate else None
        codec = stream.codec_context.codec.canonical_name
    if len(found) != len(times):
        raise DataError(f"it has {len(found)} frames, not {len(times)}")
    seconds = from_zero(found)
    if (late := np.abs(seconds - times).max()) > tick * 1.001:
        raise DataError(f"a frame is shown {late:.4f} s from its time")
    fps, vfr = frame_rate(seconds, nominal, tick)
    width, height = appearance.size
    duration = len(found) / fps
    facts = {"frames": len(found), "fps": fps, "vfr": vfr, "duration": duration}
    notes += interlaced_note(interlaced, len(found))
    return facts | {"width": width, "height": height, "codec": codec, "remarks": notes}


def same_frames(identity: Identity, start: int) -> Look:
    """Return what sees that the frames are those of the film from `start` on, bit for bit."""

    def look(number: int, frame: av.VideoFrame) -> None:
        if frame_checksum(frame) != identity.checksum[start + number]:
            raise DataError(f"frame {number} differs from the film's")

    return look


def like_frames(ends: dict[int, np.ndarray]) -> Look:
    """Return what sees that some frames show what was encoded.

    Args:
        ends: the luma of these frames, uint8 (H, W), by their numbers.
    """

    def look(number: int, frame: av.VideoFrame) -> None:
        if number in ends:
            luma = plane(frame, 0)
            if luma.shape != ends[number].shape:
                raise DataError(f"frame {number} has {luma.shape[1]} x {luma.shape[0]} pixels")
            error = np.square(luma.astype(np.int32) - ends[number]).mean()
            if error > 255**2 / 10 ** (LEAST_PSNR / 10):
                raise DataError(f"frame {number} does not show what was encoded")

    return look


def plane(frame: av.VideoFrame, number: int) -> np.ndarray:
    """Return the samples of a plane of a frame of 8 bits: uint8 (H, W), read-only."""
    data = frame.planes[number]
    samples = np.frombuffer(data, np.uint8)[: data.line_size * data.height]  # type: ignore[call-overload]
    return samples.reshape(data.height, data.line_size)[:, : data.width]
