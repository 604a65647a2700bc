"""The decoding of a media file's bytes to exact pixels and times.

The first bytes of a file tell its format, never its name, and each format has one fixed demuxer: a playlist named
`.mp4` is refused, and cannot open other files. Every failure is a DataError that gives the reason; the caller adds the
name of the file.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from ...errors import DataError
from .keyframes import last_safe_keyframe
from .swscale import TO_RGB

MAX_SIDE = 8192
"""The most pixels that a frame may have along one side."""
MAX_PIXELS = 1 << 25
"""The most pixels that a frame may have; 8K UHD has 33.2 M. A small file can otherwise fill memory: a 199 kB mp4 can
hold 16 frames of 8192 x 8192, 3.2 GB of RGB."""
MAX_FRAMES = 20_000
"""The most frames that a video may have. Some clips are decoded from the start of their file, so that longer videos are
to be split before packing."""

Format = Literal["mp4", "webm", "gif", "jpg", "png"]
"""The formats that are read. mp4 stands for its family (mp4, mov), webm for Matroska."""
DEMUXERS = {"mp4": "mov", "webm": "matroska", "gif": "gif"}
"""The formats of videos, and FFmpeg's demuxer of each."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a media file holds, as found by decoding it in full."""

    kind: Literal["video", "image"]
    format: Format
    frames: int
    """1 for an image."""
    fps: float | None
    """Average frames per second; None for an image."""
    vfr: bool
    """Whether frame i is shown at another time than i / fps, beyond the rounding of the file's clock."""
    width: int
    """Pixels, upright (after rotation)."""
    height: int
    """Pixels, upright (after rotation)."""
    duration: float
    """Seconds; 0 for an image."""
    codec: str
    """FFmpeg's name of the video codec, as h264 or vp9; for an image its format."""


def sniff(data: bytes) -> Format:
    """Return the format that the first bytes of a file announce. Raises DataError if it is none of `Format`."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    signatures: tuple[tuple[bytes, Format], ...] = (
        (b"\x1a\x45\xdf\xa3", "webm"),
        (b"GIF8", "gif"),
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
    )
    for signature, name in signatures:
        if data.startswith(signature):
            return name
    if not data:
        raise DataError("the file is empty")
    raise DataError(f"no mp4, mov, webm, mkv, gif, jpg or png: the content starts with {data[:16]!r}")


def probe(data: bytes) -> MediaInfo:
    """Decode a file in full and return what it holds. Raises DataError if it is damaged or past the limits."""
    format = sniff(data)
    if format not in DEMUXERS:
        height, width, _ = decode_image(data).shape
        return MediaInfo("image", format, 1, None, False, width, height, 0.0, format)

    times: list[float] = []
    for frame in _frames(data):
        if not times:
            height, width, _ = _rgb(frame, VideoReformatter()).shape
            tick = float(frame.time_base or 0)
        times.append(frame.time)
    if not times:
        raise DataError("the video stream holds no frame that decodes")

    if format == "gif" and len(times) == 1:
        return MediaInfo("image", format, 1, None, False, width, height, 0.0, format)
    nominal, codec = _rate_and_codec(data)
    fps, vfr = _frame_rate(_from_zero(times), nominal, tick)
    return MediaInfo("video", format, len(times), fps, vfr, width, height, len(times) / fps, codec)


def frame_times(data: bytes, frames: int | None = None) -> np.ndarray:
    """Return when each frame of a video is shown: float64 (frames,), seconds, strictly ascending from 0.

    Args:
        data: the file.
        frames: the count that `probe` found. If the file has as many packets, their time stamps are taken, which saves
            a decode. Without the count it cannot be known whether every packet is a frame (VP8 has hidden ones), so
            that the video is decoded.

    Raises:
        DataError: the video is damaged or past the limits.
    """
    if frames is not None:
        with open_video(data) as (container, stream):
            packets = [p.pts * p.time_base for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        if len(packets) == frames:
            return _from_zero(sorted(map(float, packets)))
    return _from_zero([frame.time for frame in _frames(data)])


def indexed_times(data: bytes, frames: int, fps: float | None, vfr: bool) -> np.ndarray:
    """Return `frame_times` of a video of which `probe` found the count of frames, the rate, and whether it varies.

    A constant rate needs no decoding, and gives times without the rounding of the file's clock.
    """
    return frame_times(data, frames) if vfr or fps is None else np.arange(frames) / fps


def read_frames(data: bytes, indices: Sequence[int] | np.ndarray, frames: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames of a video one by one: uint8 (H, W, 3), RGB.

    They are exact for every codec, with B-frames and open groups of pictures too.

    Args:
        data: the file.
        indices: which frames, ascending, counted from 0 in order of presentation.
        frames: the count that `probe` found. Decoding then begins at the last keyframe from which the same frames are
            certain to come out (`keyframes`); without the count it begins at the start of the file.

    Raises:
        DataError: the video is damaged, past the limits, or ends before the last index.
    """
    wanted = [int(i) for i in indices]
    if wanted != sorted(wanted) or (wanted and wanted[0] < 0):
        raise ValueError(f"indices must ascend from 0, got {wanted}")
    if not wanted:
        return

    position, reformatter = 0, VideoReformatter()
    for number, frame in _frames_from(data, wanted[0], frames):
        if number == wanted[position]:
            pixels = _rgb(frame, reformatter)
            # The same frame may be wanted several times.
            while position < len(wanted) and wanted[position] == number:
                yield pixels
                position += 1
            if position == len(wanted):
                return
    raise DataError(f"frame {wanted[position]} was asked for, the video ends before it")


def decode_frames(data: bytes, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return frames of a video as one array: uint8 (len(indices), H, W, 3), RGB.

    Args:
        data: the file.
        indices: as for `read_frames`.

    Raises:
        DataError: as for `read_frames`, or the size of the frames changes.
    """
    frames = list(read_frames(data, indices))
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise DataError(f"the frame size changes within the video: {sorted(sizes)}")
    return np.stack(frames)


def decode_image(data: bytes) -> np.ndarray:
    """Decode a jpg, png or gif of one frame: uint8 (H, W, 3), RGB, upright by EXIF, transparency laid on white.

    Raises:
        DataError: the file is of another format, damaged, past the limits, or has more than 8 bits per channel.
    """
    if sniff(data) not in ("jpg", "png", "gif"):
        raise DataError("no jpg, png or gif")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits of this module are tighter
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF"))
        _check_size(*image.size)
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{image.mode} pixels: wanted 8 bits per channel")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be decoded: {error}") from None


@contextmanager
def open_video(data: bytes) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file, and give its first stream that is a video rather than a cover picture.

    Raises:
        DataError: the file holds no such stream or is past the limits; or FFmpeg fails in the block.
    """
    format = sniff(data)
    if format not in DEMUXERS:
        raise DataError(f"a {format} image, wanted a video")
    try:
        with av.open(io.BytesIO(data), "r", format=DEMUXERS[format]) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise DataError(f"no video stream among its {len(container.streams)} streams")
            stream = streams[0]
            if stream.codec_context is None:
                raise DataError("no decoder for its video codec")
            # The limits hold for what the header announces, before any frame takes memory.
            _check_size(stream.codec_context.width, stream.codec_context.height)
            if stream.frames > MAX_FRAMES:
                raise DataError(f"{stream.frames} frames: at most {MAX_FRAMES} are read, split the video into clips")
            stream.codec_context.thread_count = 1  # the processes of the loader decode side by side
            yield container, stream
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise DataError(f"the video cannot be decoded: {error}") from None


def _frames(data: bytes) -> Iterator[av.VideoFrame]:
    """Yield every frame of a video in order of presentation, decoding from the start of the file."""
    with open_video(data) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            _check_frame(number, frame)
            yield frame


def _frames_from(data: bytes, first: int, frames: int | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames of a video with their numbers, from `first` or an earlier one to the last.

    Where decoding from a keyframe turns out not to be certain, all begins again at the start of the file, and numbers
    come twice.

    Args:
        data: the file.
        first: the first frame that is wanted.
        frames: the count that `probe` found, if it is known.
    """
    if first and frames:
        try:
            yield from _frames_from_keyframe(data, first, frames)
            return
        except (_UncertainError, DataError):
            pass
    yield from enumerate(_frames(data))


class _UncertainError(Exception):
    """A decoder that began at a keyframe may show other frames than one that began at the start of the file."""


def _frames_from_keyframe(data: bytes, first: int, frames: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames of a video with their numbers, from the last safe keyframe up to `first` on.

    Every frame is compared with the time stamps of the packets.

    Raises:
        _UncertainError: there is no safe keyframe but the start, or a frame is not the one that the packets announce.
        DataError: the file is damaged.
    """
    with open_video(data) as (container, stream):
        # A packet for each frame, and an empty one, which flushes the decoder. A file of more packets is not safe.
        packets = list(islice(container.demux(stream), frames + 2))
        codec, header = stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
        filled = [packet for packet in packets if packet.size]
        number = last_safe_keyframe(filled, codec, header, frames, first)
        if not number:
            raise _UncertainError

        times, keyframe_shown = sorted(packet.pts or 0 for packet in filled), False
        for packet in packets[number:]:
            for frame in packet.decode():
                as_announced = number < frames and frame.pts == times[number] and (keyframe_shown or frame.key_frame)
                if not as_announced or frame.is_corrupt:
                    raise _UncertainError
                _check_frame(number, frame)
                yield number, frame
                number, keyframe_shown = number + 1, True
        if number < frames:
            raise _UncertainError


def _check_frame(number: int, frame: av.VideoFrame) -> None:
    """Raise a DataError if a frame is damaged, past the limits, or without a time stamp."""
    if number >= MAX_FRAMES:
        raise DataError(f"more than {MAX_FRAMES} frames: split the video into clips")
    _check_size(frame.width, frame.height)
    if frame.is_corrupt:
        raise DataError(f"frame {number} is damaged")
    if frame.time is None:
        raise DataError(f"frame {number} has no timestamp")


def _check_size(width: int, height: int) -> None:
    """Raise a DataError if a frame has no pixels, or more than the limits allow."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise DataError(f"{width} x {height} pixels: wanted 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} in all")


def _rate_and_codec(data: bytes) -> tuple[float | None, str]:
    """Return what the header of a video says: the nominal frames per second, if it does, and the codec's name."""
    with open_video(data) as (_, stream):
        rate = float(stream.average_rate) if stream.average_rate else None
        return rate, stream.codec_context.codec.canonical_name


def _from_zero(times: list[float]) -> np.ndarray:
    """Return times, in seconds, counted from the first: float64 (frames,). Raises DataError unless they ascend."""
    result = np.array(times, np.float64)
    if (np.diff(result) <= 0).any():
        number = int(np.argmax(np.diff(result) <= 0)) + 1
        raise DataError(f"frame {number} is not shown after the one before it")
    return result - result[:1]


def _frame_rate(times: np.ndarray, nominal: float | None, tick: float) -> tuple[float, bool]:
    """Return the frames per second, and whether the rate varies.

    Args:
        times: float64 (frames,), seconds, from 0.
        nominal: what the header says, in frames per second.
        tick: the unit that the file rounds times to, in seconds.
    """
    if len(times) == 1:
        return nominal or 1.0, False
    mean = (len(times) - 1) / times[-1]
    for fps in (nominal, mean):
        if fps and np.abs(times - np.arange(len(times)) / fps).max() <= tick * 1.001:
            return float(fps), False
    return float(mean), True


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Return the pixels of a frame, upright: uint8 (H, W, 3)."""
    pixels = reformatter.reformat(frame, format="rgb24", interpolation=TO_RGB, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90)) if frame.rotation else pixels
