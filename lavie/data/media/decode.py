"""From the bytes of a media file to exact pixels and times.

A file is what its first bytes say, never what its name says, and each kind has one fixed demuxer: a playlist named
`.mp4` is refused and cannot open other files. Every failure is a DataError that gives the reason; the caller adds the
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
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

from ...errors import DataError
from .keyframes import last_safe_keyframe

MAX_SIDE = 8192
MAX_PIXELS = 1 << 25
"""Per frame; 8K UHD has 33.2 M. A 199 kB mp4 can hold 16 frames of 8192 x 8192, 3.2 GB of RGB."""
MAX_FRAMES = 20_000
"""Per video: some clips are decoded from the start of their file, so longer ones are to be split before packing."""

Format = Literal["mp4", "webm", "gif", "jpg", "png"]
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
"""How colours are converted: the same pixels on every CPU, within half a level of the formula."""
DEMUXERS = {"mp4": "mov", "webm": "matroska", "gif": "gif"}
"""mp4 stands for its family (mp4, mov), webm for Matroska."""


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
    """Whether frame i is shown at other times than i / fps, beyond the rounding of the file's clock."""
    width: int
    height: int
    """In pixels, upright (after rotation)."""
    duration: float
    """Seconds; 0 for an image."""
    codec: str
    """FFmpeg's name of the video codec, as h264 or vp9; for an image the format."""


def sniff(data: bytes) -> Format:
    """The format that the first bytes of `data` announce. Raises DataError if it is none of `Format`."""
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
    """Decode `data` in full and describe it. Raises DataError with the reason if it is damaged or past the limits."""
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
    nominal, codec = _rate_and_codec(data)
    fps, vfr = _rate(_from_zero(times), nominal, tick)
    return MediaInfo("video", format, len(times), fps, vfr, width, height, len(times) / fps, codec)


def frame_times(data: bytes, frames: int | None = None) -> np.ndarray:
    """When each frame is shown: float64 (frames,), seconds, strictly ascending from 0.

    With `frames`, the count that `probe` found, the packets' timestamps are taken where there are as many of them,
    which saves a decode; not every packet need be a frame (VP8 has hidden ones), so without it the video is decoded.
    """
    if frames is not None:
        with open_video(data) as (container, stream):
            packets = [p.pts * p.time_base for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        if len(packets) == frames:
            return _from_zero(sorted(map(float, packets)))
    return _from_zero([frame.time for frame in _frames(data)])


def indexed_times(data: bytes, frames: int, fps: float | None, vfr: bool) -> np.ndarray:
    """`frame_times` from what `probe` found: a constant rate needs no decode and has no rounding of the clock."""
    return frame_times(data, frames) if vfr or fps is None else np.arange(frames) / fps


def read_frames(data: bytes, indices: Sequence[int] | np.ndarray, frames: int | None = None) -> Iterator[np.ndarray]:
    """The frames at `indices` (ascending, counted in order of presentation), one by one: uint8 (H, W, 3), RGB.

    Decodes from the start of the file to the last index: exact for every codec, B-frames and open GOPs included. With
    `frames`, the count that `probe` found, from the last keyframe that is certain to show the same.
    """
    wanted = [int(i) for i in indices]
    if wanted != sorted(wanted) or (wanted and wanted[0] < 0):
        raise ValueError(f"indices must ascend from 0, got {wanted}")
    done = 0
    reformatter = VideoReformatter()
    for number, frame in _frames_from(data, wanted[0], frames) if wanted else ():
        if number == wanted[done]:
            pixels = _rgb(frame, reformatter)
            while done < len(wanted) and wanted[done] == number:
                yield pixels
                done += 1
        if done == len(wanted):
            return
    if wanted:
        raise DataError(f"frame {wanted[done]} was asked for, the video ends before it")


def decode_frames(data: bytes, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The frames at `indices` (ascending, counted in order of presentation): uint8 (len(indices), H, W, 3), RGB."""
    frames = list(read_frames(data, indices))
    if len({f.shape for f in frames}) > 1:
        raise DataError(f"the frame size changes within the video: {sorted({f.shape[:2] for f in frames})}")
    return np.stack(frames)


def decode_image(data: bytes) -> np.ndarray:
    """A jpg or png: uint8 (H, W, 3), RGB, upright by its EXIF orientation, transparency laid on white."""
    if sniff(data) not in ("jpg", "png"):
        raise DataError("no jpg or png")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits below are tighter
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
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
    """The opened file and its first stream that is a video, not a cover picture."""
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
            _check_size(stream.codec_context.width, stream.codec_context.height)
            if stream.frames > MAX_FRAMES:
                raise DataError(f"{stream.frames} frames: at most {MAX_FRAMES} are read, split the video into clips")
            stream.codec_context.thread_count = 1  # workers decode side by side
            yield container, stream
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise DataError(f"the video cannot be decoded: {error}") from None


def _frames(data: bytes) -> Iterator[av.VideoFrame]:
    """Every frame in order of presentation."""
    with open_video(data) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            _check_frame(number, frame)
            yield frame


def _frames_from(data: bytes, first: int, frames: int | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their numbers, ascending to the last, from `first` or one before it on.

    A decoder that begins late is compared with the times of the packets. Should it not do as they say, or fail, all
    begins again at the start, and numbers come twice.
    """
    if first and frames:
        try:
            yield from _late_frames(data, first, frames)
            return
        except (_Unsure, DataError):
            pass
    yield from enumerate(_frames(data))


class _Unsure(Exception):
    """That a decoder which began late shows what one from the start would."""


def _late_frames(data: bytes, first: int, frames: int) -> Iterator[tuple[int, av.VideoFrame]]:
    with open_video(data) as (container, stream):
        # One for each frame and an empty one, which flushes the decoder; a file of more is not for here.
        packets = list(islice(container.demux(stream), frames + 2))
        codec, header = stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
        full = [packet for packet in packets if packet.size]
        number = last_safe_keyframe(full, codec, header, frames, first)
        if not number:
            raise _Unsure
        times, begun = sorted(packet.pts or 0 for packet in full), False
        for packet in packets[number:]:
            for frame in packet.decode():
                as_planned = number < frames and frame.pts == times[number] and (begun or frame.key_frame)
                if not as_planned or frame.is_corrupt:
                    raise _Unsure
                _check_frame(number, frame)
                yield number, frame
                number, begun = number + 1, True
        if number < frames:
            raise _Unsure


def _check_frame(number: int, frame: av.VideoFrame) -> None:
    if number >= MAX_FRAMES:
        raise DataError(f"more than {MAX_FRAMES} frames: split the video into clips")
    _check_size(frame.width, frame.height)
    if frame.is_corrupt:
        raise DataError(f"frame {number} is damaged")
    if frame.time is None:
        raise DataError(f"frame {number} has no timestamp")


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise DataError(f"{width} x {height} pixels: wanted 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} in all")


def _rate_and_codec(data: bytes) -> tuple[float | None, str]:
    """What the header says: nominal frames per second, and the codec."""
    with open_video(data) as (_, stream):
        rate = float(stream.average_rate) if stream.average_rate else None
        return rate, stream.codec_context.codec.canonical_name


def _from_zero(times: list[float]) -> np.ndarray:
    result = np.array(times, np.float64)
    if (np.diff(result) <= 0).any():
        number = int(np.argmax(np.diff(result) <= 0)) + 1
        raise DataError(f"frame {number} is not shown after the one before it")
    return result - result[:1]


def _rate(times: np.ndarray, nominal: float | None, tick: float) -> tuple[float, bool]:
    """Frames per second, and whether the times leave that grid. `tick` is the unit that the file rounds times to."""
    if len(times) == 1:
        return nominal or 1.0, False
    mean = (len(times) - 1) / times[-1]
    for fps in (nominal, mean):
        if fps and np.abs(times - np.arange(len(times)) / fps).max() <= tick * 1.001:
            return float(fps), False
    return float(mean), True


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    pixels = reformatter.reformat(frame, format="rgb24", interpolation=EXACT, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90)) if frame.rotation else pixels
