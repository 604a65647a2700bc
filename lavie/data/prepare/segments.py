"""Parts of films that have captions of their own, each cut out of its film as a clip.

A part is encoded anew when it is packed, because shards hold whole files and all that reads them (hashes, caches,
both decoders) counts frames from the first one. Copying packets would be exact only for parts that begin at a
keyframe, and pointing into the film would make every read of a short clip a read of the whole film. The frames are
exact; the pixels pass through H.264 once more, at a quality that shows no loss (`encode.X264`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...errors import DataError
from ..media.decode import MediaInfo, frame_times, read_frames
from ..media.encode import encode_mp4

COLUMNS = ("start", "end", "start_frame", "end_frame")
"""The columns of a table that say which part of a film a row is about."""
TIE = 1e-6
"""Seconds by which a frame may be shown before the start or end of a part and still count as shown at it: times of
frames are sums of fractions, those of tables are rounded decimals."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a film: the frames shown from `start` on and before `end`."""

    start: float
    """Seconds from the film's first frame, or a number of frames."""
    end: float | None
    """In the same unit; None: the end of the film."""
    unit: Literal["s", "frames"] = "s"

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Segment | None":
        """Return the part that a row of a table tells of, None if it tells of the whole film.

        Raises:
            DataError: the values are no times or frames, or do not ascend from 0.
        """
        filled = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
        if not filled:
            return None
        if len({name.endswith("_frame") for name in filled}) > 1:
            raise DataError(f"{' and '.join(filled)} in one row: give times or frames")
        frames = any(name.endswith("_frame") for name in filled)
        numbers = {name.removesuffix("_frame"): _number(name, value, frames) for name, value in filled.items()}
        start, end = numbers.get("start", 0.0), numbers.get("end")
        if end is not None and not start < end:
            raise DataError(f"it starts at {start:g} and ends at {end:g}: wanted a start before the end")
        return Segment(start, end, "frames" if frames else "s")

    def __str__(self) -> str:
        return f"{self.start:.12g} - {'end' if self.end is None else f'{self.end:.12g}'} {self.unit}"

    def frames_of(self, times: np.ndarray) -> range:
        """Return the frames of the part in a film whose frames are shown at `times`: float64 (frames,), seconds from 0.

        Raises:
            DataError: the part ends beyond the film, or holds no frame.
        """
        interval = times[-1] / (len(times) - 1) if len(times) > 1 else 0.0
        length = float(times[-1] + interval) if self.unit == "s" else float(len(times))
        # A film's stated length is often rounded up to a whole frame.
        slack = interval if self.unit == "s" else 0.0
        for name, value in (("starts", self.start), ("ends", self.end)):
            if value is not None and value > length + slack + TIE:
                raise DataError(f"it {name} at {value:.12g} {self.unit}, the film has {length:.6g} {self.unit}")
        points = np.arange(len(times)) if self.unit == "frames" else times
        first = int(np.searchsorted(points, self.start - TIE))
        last = len(times) if self.end is None else int(np.searchsorted(points, self.end - TIE))
        if first >= last:
            raise DataError(f"no frame is shown in {self}; the film has {length:.6g} {self.unit}")
        return range(first, last)


def cut_frames(data: bytes, first: int, last: int, info: Mapping[str, Any]) -> bytes:
    """Return some frames of a film as an mp4 that shows them at the same times, from 0; runs in the sandbox's child.

    Args:
        data: the bytes of the film.
        first: the first frame.
        last: the frame after the last one.
        info: what `probe` found in the film, the fields of a MediaInfo.

    Raises:
        DataError: the film is damaged, or the size of its frames changes.
    """
    film = MediaInfo(**info)
    # Chroma of half the size needs even sides.
    lossless = bool(film.width % 2 or film.height % 2)
    frames = read_frames(data, range(first, last), film.frames)
    if not film.vfr or last - first == 1:
        return encode_mp4(frames, film.fps, lossless=lossless)
    times = frame_times(data, film.frames)[first:last]
    return encode_mp4(frames, times=times - times[0], lossless=lossless)


def _number(name: str, value: Any, whole: bool) -> float:
    """Return a time or a number of frames of a table. Raises DataError if it is none."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (whole and number != int(number)):
        wanted = "a whole number of frames from 0" if whole else "seconds from 0, as 4.5"
        raise DataError(f"{name} is {value!r}: wanted {wanted}")
    return number
