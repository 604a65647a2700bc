"""The frames of a film by their numbers in the scan, each of which is told by its checksum.

Decoding begins at the keyframe that a seek finds. Whether what comes out is what a decode from the start gives, the
checksums say: an open group of pictures, a gradual refresh or a wrong index lead astray. Then the film is decoded once
in order, for all that is still wanted of it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av

from ...data.media.decode import checked_frames
from ...data.media.interlace import Numbered
from ...errors import DataError
from ..checksum import frame_checksum

KEPT = 2
"""Frames that are kept in an ordered decode: a clip may want those right before its first, to deinterlace it."""


class AstrayError(Exception):
    """A seek did not lead to the frames that the scan saw."""


@dataclass(frozen=True)
class Identity:
    """What tells the frames of a film, as the scan saw them in order."""

    pts: Sequence[int]
    """Their time stamps, ascending."""
    checksum: Sequence[int]

    def check(self, number: int, frame: av.VideoFrame) -> bool:
        """Return whether a frame is that of this number."""
        return frame.pts == self.pts[number] and frame_checksum(frame) == self.checksum[number]


class SoughtFrames:
    """Finds frames by seeking."""

    def __init__(self, container: Any, stream: av.VideoStream, identity: Identity) -> None:
        """Nothing is read.

        Args:
            container: the open film.
            stream: its video stream.
            identity: of its frames.
        """
        self._container, self._stream, self._identity = container, stream, identity

    def frames(self, start: int, end: int) -> Iterator[Numbered]:
        """Yield the frames from `start` on and before `end`, with their numbers and shapes.

        Raises:
            AstrayError: others were found.
        """
        first, number = self._identity.pts[start], start
        try:
            self._container.seek(first, stream=self._stream)
            for frame, shape in checked_frames(self._stream, self._container.demux(self._stream), None):
                if number == start and frame.pts is not None and frame.pts < first:
                    continue
                if not self._identity.check(number, frame):
                    raise AstrayError
                yield number, frame, shape
                number += 1
                if number == end:
                    return
        except (DataError, av.FFmpegError):
            raise AstrayError from None
        raise AstrayError


class OrderedFrames:
    """Decodes from the start; what is wanted must be asked for in order."""

    def __init__(self, container: Any, stream: av.VideoStream, identity: Identity) -> None:
        """Nothing is read. The arguments are those of `SoughtFrames`."""
        self._all = enumerate(checked_frames(stream, container.demux(stream), None))
        self._identity = identity
        self._kept: deque[Numbered] = deque(maxlen=KEPT)

    def frames(self, start: int, end: int) -> Iterator[Numbered]:
        """Yield the frames from `start` on and before `end`, with their numbers and shapes.

        Raises:
            DataError: a frame is damaged, or is not the one that the scan saw.
        """
        for kept in list(self._kept):
            if start <= kept[0] < end:
                yield kept
        while not self._kept or self._kept[-1][0] < end - 1:
            number, (frame, shape) = next(self._all, (len(self._identity.pts), (None, None)))
            if frame is None or shape is None:
                raise DataError("it ends before the frames that were scanned: scan it again")
            self._kept.append((number, frame, shape))
            if number >= start:
                if not self._identity.check(number, frame):
                    raise DataError(f"frame {number} is not the one that was scanned: scan the film again")
                yield number, frame, shape
