"""Interlaced frames, which hold two moments line by line, to frames of one moment.

The filter is FFmpeg's bwdif, as `bwdif=mode=send_frame:deint=interlaced`: a frame keeps its place, its time and the
lines of its first moment, and the lines between are made from these and from the frames around. It depends on a frame
and its two neighbours alone, so that it is the same wherever decoding began.
"""

from collections.abc import Container, Iterator

import av
import av.filter

from ...errors import DataError
from .shown import Shape

Numbered = tuple[int, av.VideoFrame, Shape]
"""The number of a frame in order of presentation, the frame, and its shape."""


def progressive(frames: Iterator[Numbered], wanted: Container[int]) -> Iterator[Numbered]:
    """Yield frames, those that are interlaced and wanted as they are at their first moment.

    Args:
        frames: in order. Where the numbers fall back, all has begun again.
        wanted: the numbers of the frames that are looked at; the others are passed on as they are.

    Raises:
        DataError: FFmpeg cannot filter a frame.
    """
    previous: av.VideoFrame | None = None
    current = next(frames, None)
    while current is not None:
        number, frame, shape = current
        if frame.interlaced_frame and number in wanted:
            following = next(frames, None)
            if following is not None and following[0] != number + 1:
                previous, current = None, following
                continue
            yield number, deinterlace(previous, frame, following[1] if following else None), shape
        else:
            yield current
            following = next(frames, None)
        previous = frame if following is not None and following[0] == number + 1 else None
        current = following


def deinterlace(previous: av.VideoFrame | None, frame: av.VideoFrame, following: av.VideoFrame | None) -> av.VideoFrame:
    """Return an interlaced frame as it is at its first moment.

    Args:
        previous: the frame before it; None for the first of the video.
        frame: the frame.
        following: the frame after it; None for the last of the video.

    Raises:
        DataError: FFmpeg cannot filter the frame, as it has fewer than three lines.
    """
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    sink = graph.add("buffersink")
    try:
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), sink).configure()
        # A frame comes out once the one after it, or the end, is known.
        for neighbour in (previous, frame):
            if neighbour is not None:
                source.push(neighbour)
        source.push(following)
        if previous is not None:
            sink.pull()
        result = sink.pull()
    except av.FFmpegError as error:
        raise DataError(f"an interlaced frame cannot be deinterlaced: {error}") from None
    assert isinstance(result, av.VideoFrame)
    return result
