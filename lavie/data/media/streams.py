"""The opening of a video file: which of its streams is the film, and its decoded frames."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Lock
from typing import Any, BinaryIO

import av
from av.stream import Disposition

from ...errors import DataError
from .formats import DEMUXERS, SNIFFED, check_size, sniff

MAX_FRAMES = 20_000
"""The most frames that a video may have. Some clips are decoded from the start of their file, so that longer videos are
to be split before packing."""
NOT_A_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
"""The marks of streams that are never taken: covers, and pictures for a player's seek bar."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""The decoders that keep a WebM's transparency; FFmpeg's own decoders of these codecs leave it out."""

Crop = tuple[int, int, int, int]
"""How many pixels of a decoded frame are not shown: left, right, top, bottom."""
NO_CROP: Crop = (0, 0, 0, 0)
_log_level = Lock()
"""Held while the process's level of FFmpeg's messages is raised."""


@contextmanager
def open_video(
    data: bytes | BinaryIO, max_frames: int | None = MAX_FRAMES, *, first: bool = False
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file, and give the stream of the film that it holds (see `film`).

    Args:
        data: the file's bytes, or the open file, of which FFmpeg then reads what it needs.
        max_frames: the most frames that its header may announce, None for any number.
        first: take the first video stream that is no cover, whatever the others are.

    Raises:
        DataError: the file holds no such stream or is past the limits; or FFmpeg fails in the block.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(0)
    format = sniff(file.read(SNIFFED))
    file.seek(0)
    if format not in DEMUXERS:
        raise DataError(f"a {format} image, wanted a video")
    try:
        with av.open(file, "r", format=DEMUXERS[format]) as container:
            stream = first_film(container) if first else film(container)
            if stream is None:
                raise DataError(f"no video stream among its {len(container.streams)} streams")
            if stream.codec_context is None:
                raise DataError("no decoder for its video codec")
            # The limits hold for what the header announces, before any frame takes memory.
            check_size(stream.codec_context.width, stream.codec_context.height)
            if max_frames is not None and stream.frames > max_frames:
                raise DataError(f"{stream.frames} frames: at most {max_frames} are read, split the video into clips")
            stream.codec_context.thread_count = 1  # the processes of the loader decode side by side
            yield container, stream
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise DataError(f"the video cannot be decoded: {error}") from None


def film(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the video stream that the ffmpeg command takes by itself; None if there is none.

    1. A cover or a seek bar's picture is none.
    2. A stream of which the header says that it holds one picture comes after all others.
    3. A stream that is marked as the default comes before others, then the largest, then the first.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_A_FILM]
    return max(streams, key=_preference, default=None)


def first_film(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the first video stream that is neither a cover nor a seek bar's picture; None if there is none."""
    return next((stream for stream in container.streams.video if not stream.disposition & NOT_A_FILM), None)


def _preference(stream: av.VideoStream) -> tuple[bool, bool, int]:
    """Return what `film` compares streams by; the largest wins."""
    context = stream.codec_context
    pixels = context.width * context.height if context else 0
    return stream.frames != 1, bool(stream.disposition & Disposition.default), pixels


def other_films(container: av.container.InputContainer, stream: av.VideoStream) -> list[str]:
    """Return the video streams that were not taken, but for covers, each as its codec and size."""
    others = []
    for other in container.streams.video:
        if other.index != stream.index and not other.disposition & NOT_A_FILM:
            context = other.codec_context
            others.append(f"{context.name} {context.width} x {context.height}" if context else "of unknown codec")
    return others


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Return the width of a stream's pixels over their height: by the container, else by the codec, else 1.

    The codec's is known once a frame was decoded.
    """
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)


def container_crop(stream: av.VideoStream) -> Crop:
    """Return what the container of a stream crops: `clap` of MP4 and mov, PixelCrop of Matroska.

    FFmpeg reads it and leaves it to players to apply. PyAV shows it in FFmpeg's description of the file alone.
    """
    container: Any = stream.container  # the stubs leave its method out
    with _log_level:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            description = container.dumps_format()
        finally:
            av.logging.set_level(level)
    # Names of metadata are padded, so that no tag of the file can look like one of these lines.
    for part in re.split(r"^  (?=Stream #)", description, flags=re.M)[1:]:
        if re.match(rf"Stream #0:{stream.index}\b", part):
            found = re.search(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", part, re.M)
            return (int(found[1]), int(found[2]), int(found[3]), int(found[4])) if found else NO_CROP
    return NO_CROP


def has_hidden_alpha(stream: av.VideoStream) -> bool:
    """Return whether a VP8 or VP9 stream has its transparency beside the packets, as WebM keeps it."""
    return stream.metadata.get("alpha_mode", "0") != "0" and stream.codec_context.codec.canonical_name in ALPHA_DECODERS


def decoded(stream: av.VideoStream, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Yield the frames of a stream's packets in order of presentation, transparency included.

    Raises:
        DataError: the stream has transparency, and this build of FFmpeg lacks the decoder that keeps it.
    """
    if not has_hidden_alpha(stream):
        for packet in packets:
            yield from packet.decode()  # type: ignore[misc]
        return

    name = ALPHA_DECODERS[stream.codec_context.codec.canonical_name]
    try:
        decoder: Any = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError:
        raise DataError(f"transparent {name}, which PyAV was built without: encode the video without alpha") from None
    decoder.thread_count = 1
    for packet in packets:
        yield from decoder.decode(packet)
