"""The packets of a film that are a clip as they are, and the file that is made of them without encoding.

A clip of the frames [a, b) is copied where

1. frame a is a keyframe, and
2. the packets that follow it in the file, up to the last one of [a, b), hold frames of [a, b), or such that are shown
   before a: leading pictures of an open group, which refer to what came before, and are left out.

Whether the copy decodes to the same frames is then seen by decoding it (`clip_file`). No edit list hides frames of an
earlier keyframe, because readers differ in what they do with one.
"""

import io
from collections.abc import Sequence
from typing import Any

import av

MUXERS = {"mp4": "mp4", "webm": "webm", "mkv": "matroska"}
"""The formats of copied clips, each with FFmpeg's name of what writes it."""
CODECS = {"h264": "mp4 mkv", "hevc": "mp4 mkv", "vp8": "webm", "vp9": "mp4 webm", "av1": "mp4 webm"}
"""The codecs that are copied, each with its formats: that of an mp4 or mov first, that of a Matroska film last."""
NO_KEYFRAME = "its first frame is no keyframe"
EXACT_BYTES = {"fflags": "+bitexact"}
"""The option of a container with which it holds neither random numbers nor versions of FFmpeg."""


def clip_format(codec: str, container: Any) -> str:
    """Return the format of a copied clip, one of MUXERS: its film's family, whose clock has the same ticks.

    Args:
        codec: FFmpeg's name of the film's codec, one of CODECS.
        container: the open film.
    """
    formats = CODECS[codec].split()
    return formats[-1] if "matroska" in container.format.name.split(",") else formats[0]


def packets_of(
    container: Any, stream: av.VideoStream, pts: Sequence[int], start: int, end: int
) -> tuple[list[av.Packet], str]:
    """Return the packets of a clip in their order, and why there are none: empty if there are.

    Args:
        container: the open film.
        stream: its video stream.
        pts: the time stamps of all its frames, ascending.
        start: the first frame of the clip.
        end: the frame behind the last one.
    """
    first, last = pts[start], pts[end] if end < len(pts) else None
    missing = set(pts[start:end])
    found: list[av.Packet] = []
    container.seek(first, stream=stream)
    for packet in container.demux(stream):
        if not packet.size:
            break
        if packet.pts is None:
            return [], "its packets have no times"
        if not found:
            if packet.dts is not None and packet.dts > first:
                break
            if packet.pts != first:
                continue
            if not packet.is_keyframe:
                return [], NO_KEYFRAME
        if packet.pts < first:
            continue
        if last is not None and packet.pts >= last:
            return [], "frames that are shown after it are stored before its last one"
        found.append(packet)
        missing.discard(packet.pts)
        if not missing:
            return found, ""
    return [], "its packets are not found by their times"


def muxed(packets: Sequence[av.Packet], stream: av.VideoStream, format: str) -> bytes:
    """Return a file of some packets, shown from time 0 on; the packets are used up.

    Args:
        packets: of `stream`, in their order.
        stream: the video stream of the film.
        format: one of MUXERS.

    Raises:
        av.FFmpegError or ValueError: the container does not take them.
    """
    file = io.BytesIO()
    first = min(packet.pts for packet in packets if packet.pts is not None)
    with av.open(file, "w", format=MUXERS[format], container_options=EXACT_BYTES) as out:
        # Without "opaque" PyAV looks for an encoder of the codec's decoder, and libdav1d has none.
        copied = out.add_stream_from_template(stream, opaque=True)
        for packet in packets:
            assert packet.pts is not None
            packet.pts -= first
            if packet.dts is not None:
                packet.dts -= first
            packet.stream = copied
            out.mux(packet)
    return file.getvalue()
