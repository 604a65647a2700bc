"""The encoding of a clip whose packets cannot be copied: H.264 in an mp4, the same bytes on every run and processor.

1. Frames of 8 bits in 4:2:0 that are shown as they are stored keep their samples; bars are cut off at even places.
2. All others become what a player shows (`shown`): turned upright, with square pixels, deinterlaced, on white, in
   standard range; then 4:2:0 with the colour matrix of their size.
3. x264 encodes at crf 18, preset veryfast, in closed groups of 24 frames: 45 dB on a real film.
"""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from ...data.media.encode import X264
from ...data.media.interlace import Numbered
from ...data.media.shown import MATRICES, Shape, colour_matrix, guessed_matrix, shown_pixels
from ...data.media.swscale import TO_YUV
from .clip_file import plane
from .copying import EXACT_BYTES

OPTIONS = X264 | {"crf": "18", "preset": "veryfast"}
"""x264's options."""
GOP = 24
"""Frames from one keyframe to the next: a second, so that a reader of any frame decodes little."""
AS_STORED = ("yuv420p", "yuvj420p")
"""The pixel formats whose samples are kept."""
TAGS = ("colorspace", "color_range", "color_trc", "color_primaries")
"""What a frame says of its colours, which the clip repeats where samples are kept."""

Box = tuple[int, int, int, int]
"""x, y, width and height in pixels as shown; all even."""


def even_box(box: Sequence[int] | None, size: tuple[int, int]) -> Box | None:
    """Return the part of a picture that is encoded, None for all of it.

    Args:
        box: x, y, width and height of what is wanted; None for all.
        size: width and height of the picture.
    """
    x, y, width, height = box or (0, 0, *size)
    right, bottom = x + width, y + height
    x, y = x + x % 2, y + y % 2  # chroma has half the size
    found = x, y, (right - x) // 2 * 2, (bottom - y) // 2 * 2
    return None if found == (0, 0, *size) else found


class ClipEncoder:
    """Encodes clips of one film."""

    def __init__(self, box: Box | None, as_stored: bool, rate: Fraction, ticks: tuple[Sequence[int], Fraction] | None):
        """Nothing is encoded.

        Args:
            box: what of the picture is kept.
            as_stored: whether samples are kept, and not what a player shows.
            rate: frames per second; the mean, if it varies.
            ticks: for a varying rate, the time stamp of every frame of the film, and their unit in seconds.
        """
        self._box, self._as_stored, self._rate, self._ticks = box, as_stored, rate, ticks
        self._to_rgb, self._to_yuv = VideoReformatter(), VideoReformatter()

    def times(self, start: int, end: int) -> np.ndarray:
        """Return when the frames of a clip are shown: float64 (end - start,), seconds from 0."""
        if self._ticks is None:
            return np.arange(end - start) / float(self._rate)
        pts, unit = self._ticks
        return (np.array(pts[start:end], np.int64) - pts[start]) * float(unit)

    def encode(self, frames: Iterable[Numbered], count: int) -> tuple[bytes, dict[int, np.ndarray]]:
        """Return the file of a clip, and the luma of its first and last frame by their numbers, for a look at it.

        Args:
            frames: the film's frames of the clip, as many as `count`, taken one by one.
            count: how many there are.
        """
        file = io.BytesIO()
        ends: dict[int, np.ndarray] = {}
        start = 0
        with av.open(file, "w", format="mp4", container_options=EXACT_BYTES) as out:
            for position, (number, decoded, shape) in enumerate(frames):
                frame = self._kept(decoded) if self._as_stored else self._shown(decoded, shape)
                if not position:
                    start = number
                    stream = self._stream(out, frame)
                if position in (0, count - 1):
                    ends[position] = plane(frame, 0).copy()
                frame.time_base = 1 / self._rate if self._ticks is None else self._ticks[1]
                frame.pts = position if self._ticks is None else self._ticks[0][number] - self._ticks[0][start]
                frame.pict_type = PictureType.NONE  # a decoded frame keeps its type, and would force keyframes
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return file.getvalue(), ends

    def _stream(self, out: Any, frame: av.VideoFrame) -> av.VideoStream:
        """Return the stream of a new file, for frames like this one."""
        stream = out.add_stream("libx264", rate=self._rate, options=dict(OPTIONS))
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        context = stream.codec_context
        context.time_base = 1 / self._rate if self._ticks is None else self._ticks[1]
        context.gop_size, context.thread_count = GOP, 1  # x264's bytes depend on the number of threads
        for tag in TAGS:
            setattr(context, tag, getattr(frame, tag))
        return stream

    def _kept(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the samples of a frame, without what the decoder noted beside them."""
        x, y, width, height = self._box or (0, 0, frame.width, frame.height)
        parts = [plane(frame, 0)[y : y + height, x : x + width]]
        for number in (1, 2):
            parts.append(plane(frame, number)[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2])
        samples = np.concatenate([part.reshape(-1) for part in parts]).reshape(-1, width)
        kept = av.VideoFrame.from_ndarray(samples, format=frame.format.name)
        for tag in TAGS:
            setattr(kept, tag, getattr(frame, tag))
        # Players guess the matrix by the size, which may be another one without bars.
        kept.colorspace = colour_matrix(frame)
        return kept

    def _shown(self, frame: av.VideoFrame, shape: Shape) -> av.VideoFrame:
        """Return a frame as it is shown, in 4:2:0."""
        pixels = shown_pixels(frame, shape, self._to_rgb)
        if self._box is not None:
            x, y, width, height = self._box
            pixels = np.ascontiguousarray(pixels[y : y + height, x : x + width])
        shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        matrix = guessed_matrix(shown.width, shown.height)
        options: dict[str, Any] = {"dst_colorspace": MATRICES[matrix], "interpolation": TO_YUV, "threads": 1}
        converted = self._to_yuv.reformat(shown, format="yuv420p", **options)
        converted.colorspace = matrix
        return converted
