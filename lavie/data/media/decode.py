"""The decoding of a media file's bytes to exact pixels and times.

The first bytes of a file tell its format, never its name, and each format has one fixed demuxer: a playlist named
`.mp4` is refused, and cannot open other files. Every failure is a DataError that gives the reason; the caller adds the
name of the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ...errors import DataError
from .formats import DEMUXERS, Format, check_size, sniff
from .image import read_image
from .interlace import Numbered, progressive
from .keyframes import announced_times, last_safe_keyframe, unreferenced
from .shown import HDR, Shape, check_dolby_vision, colour_matrix, names_matrix, shown_pixels, shown_size
from .streams import MAX_FRAMES, NO_CROP, container_crop, decoded, open_video, other_films, pixel_aspect


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
    """Pixels as shown: upright, and square."""
    height: int
    """Pixels as shown: upright, and square."""
    duration: float
    """Seconds; 0 for an image."""
    codec: str
    """FFmpeg's name of the video codec, as h264 or vp9; for an image its format."""
    notes: tuple[str, ...] = ()
    """What about the file had to be interpreted: one of REMARKS each, a colon, and how."""


REMARKS = (
    *("several video streams", "pixels not square", "no colour matrix named", "high dynamic range", "interlaced"),
    *("colour profile", "cropped by the container"),
)
"""What `MediaInfo.notes` tell of."""


def probe(data: bytes) -> MediaInfo:
    """Decode a file in full and return what it holds. Raises DataError if it is damaged or past the limits."""
    format = sniff(data)
    if format not in DEMUXERS:
        pixels, image_notes = read_image(data)
        height, width, _ = pixels.shape
        return MediaInfo("image", format, 1, None, False, width, height, 0.0, format, image_notes)

    times: list[float] = []
    interlaced = 0
    with open_video(data) as (container, stream):
        for frame, shape in checked_frames(stream, container.demux(stream), MAX_FRAMES):
            if not times:
                height, width, _ = shown_pixels(frame, shape, VideoReformatter()).shape
                tick = float(frame.time_base or 0)
                notes = notes_of(frame, shape, stream, other_films(container, stream))
            times.append(frame.time)
            interlaced += frame.interlaced_frame
        nominal = float(stream.average_rate) if stream.average_rate else None
        codec = stream.codec_context.codec.canonical_name
    if not times:
        raise DataError("the video stream holds no frame that decodes")
    notes += interlaced_note(interlaced, len(times))
    if format == "gif" and len(times) == 1:
        return MediaInfo("image", format, 1, None, False, width, height, 0.0, format)
    fps, vfr = frame_rate(from_zero(times), nominal, tick)
    duration = len(times) / fps
    return MediaInfo("video", format, len(times), fps, vfr, width, height, duration, codec, tuple(notes))


def notes_of(frame: av.VideoFrame, shape: Shape, stream: av.VideoStream, others: list[str]) -> list[str]:
    """Return what about a video had to be interpreted, by its first frame, as in `MediaInfo.notes`.

    Args:
        frame: the first frame.
        shape: of the frame.
        stream: the stream that was taken.
        others: those that were not.
    """
    notes = []
    if others:
        taken = f"{stream.codec_context.name} {frame.width} x {frame.height}"
        notes.append(f"several video streams: stream {stream.index} is taken, {taken}, and not {', '.join(others)}")
    width, height = shown_size(frame, Shape(crop=shape.crop))
    if shape.crop != NO_CROP:
        left, right, top, bottom = shape.crop
        borders = f"{left} pixels left, {right} right, {top} above, {bottom} below"
        notes.append(f"cropped by the container: {borders}, {frame.width} x {frame.height} stored")
    square_width, square_height = shown_size(frame, shape)
    if (square_width, square_height) != (width, height):
        aspect = f"{shape.aspect.numerator}:{shape.aspect.denominator}"
        shown = f"{square_width} x {square_height}"
        notes.append(f"pixels not square: {aspect}, {width} x {height} shown as {shown}")
    if not names_matrix(frame):
        notes.append(f"no colour matrix named: taken as number {colour_matrix(frame)} of ITU-T H.273, by its size")
    if int(frame.color_trc) in HDR:
        notes.append(f"high dynamic range: {HDR[int(frame.color_trc)]}, of which white paper becomes white")
    return notes


def interlaced_note(interlaced: int, frames: int) -> list[str]:
    """Return the note, as in `MediaInfo.notes`, of a video of which so many frames are interlaced; none if none is."""
    if not interlaced:
        return []
    return [f"interlaced: {interlaced} of {frames} frames hold two moments, line by line; the first is shown"]


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
            return from_zero(sorted(map(float, packets)))
    return from_zero([frame.time for frame, _ in _frames(data)])


def indexed_times(data: bytes, frames: int, fps: float | None, vfr: bool) -> np.ndarray:
    """Return `frame_times` of a video of which `probe` found the count of frames, the rate, and whether it varies.

    A constant rate needs no decoding, and gives times without the rounding of the file's clock.
    """
    return frame_times(data, frames) if vfr or fps is None else np.arange(frames) / fps


def read_frames(
    data: bytes,
    indices: Sequence[int] | np.ndarray,
    frames: int | None = None,
    *,
    skip: bool = True,
    convert: Callable[[av.VideoFrame, Shape, VideoReformatter], np.ndarray] = shown_pixels,
) -> Iterator[np.ndarray]:
    """Yield frames of a video one by one: uint8 (H, W, 3), RGB.

    They are exact for every codec, with B-frames and open groups of pictures too. Interlaced ones are deinterlaced.

    Args:
        data: the file.
        indices: which frames, ascending, counted from 0 in order of presentation.
        frames: the count that `probe` found. Decoding then begins at the last keyframe from which the same frames are
            certain to come out (`keyframes`); without the count it begins at the start of the file.
        skip: with the count, leave frames undecoded that are neither wanted nor needed for others. The same frames come
            out either way; False is for comparisons.
        convert: makes the pixels of a decoded frame; default: as it is shown, at its own size.

    Raises:
        DataError: what is decoded of the video is damaged or past the limits, or it ends before the last index.
    """
    wanted = [int(i) for i in indices]
    if wanted != sorted(wanted) or (wanted and wanted[0] < 0):
        raise ValueError(f"indices must ascend from 0, got {wanted}")
    if not wanted:
        return

    position, reformatter = 0, VideoReformatter()
    for number, frame, shape in progressive(_frames_for(data, wanted, frames, skip), set(wanted)):
        if number == wanted[position]:
            pixels = convert(frame, shape, reformatter)
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
        DataError: as for `read_frames`.
    """
    return np.stack(list(read_frames(data, indices)))


def _frames(data: bytes) -> Iterator[tuple[av.VideoFrame, Shape]]:
    """Yield every frame of a video as `checked_frames` does, decoding from the start of the file."""
    with open_video(data) as (container, stream):
        yield from checked_frames(stream, container.demux(stream), MAX_FRAMES)


def checked_frames(
    stream: av.VideoStream, packets: Iterable[av.Packet], max_frames: int | None
) -> Iterator[tuple[av.VideoFrame, Shape]]:
    """Yield the frames of packets in order of presentation, each with its shape; at most so many, None for any number.

    Raises:
        DataError: a frame is damaged, past the limits, without a time stamp, or shown in another size than the first.
    """
    size: tuple[int, int] | None = None
    crop = container_crop(stream)
    for number, frame in enumerate(decoded(stream, packets)):
        if max_frames is not None and number >= max_frames:
            raise DataError(f"more than {max_frames} frames: split the video into clips")
        check_size(frame.width, frame.height)
        if frame.is_corrupt:
            raise DataError(f"frame {number} is damaged")
        if frame.time is None:
            raise DataError(f"frame {number} has no timestamp")
        check_dolby_vision(frame, stream.codec_context.codec_tag)
        shape = Shape(pixel_aspect(stream), crop)
        new_size = shown_size(frame, shape)
        if size not in (None, new_size):
            raise DataError(
                f"the frame size changes within the video, from {size[0]} x {size[1]} to {new_size[0]} x {new_size[1]} "
                f"pixels at frame {number}: cut the video there, or encode it at one size"
            )
        size = new_size
        yield frame, shape


def _frames_for(data: bytes, wanted: Sequence[int], frames: int | None, skip: bool) -> Iterator[Numbered]:
    """Return frames as `_frames_from` does; if the first wanted one is interlaced, from the one before it on."""
    first = wanted[0]
    found = _frames_from(data, first, frames, frozenset(wanted) if skip else None)
    head = next(found, None)
    if head is not None and first and head[0] == first and head[1].interlaced_frame:
        return _frames_from(data, first - 1, frames, None)
    return chain([head] if head is not None else [], found)


def _frames_from(data: bytes, first: int, frames: int | None, wanted: Set[int] | None) -> Iterator[Numbered]:
    """Yield the frames of a video from `first` or an earlier one to the last: number, frame, and its shape.

    Where the thriftier way turns out not to be certain, all begins again, and numbers come twice: first without
    skipping, then from the start of the file.

    Args:
        data: the file.
        first: the first frame that is wanted.
        frames: the count that `probe` found, if it is known.
        wanted: the frames that are to come; others may be left out. None: all.
    """
    if frames:
        for needed in (wanted, None) if wanted else (None,):
            try:
                yield from _frames_announced(data, first, frames, needed)
                return
            except (_UncertainError, DataError):
                pass
    for number, (frame, shape) in enumerate(_frames(data)):
        yield number, frame, shape


class _UncertainError(Exception):
    """A decoder that was not given the whole file may show other frames than one that was."""


def _frames_announced(data: bytes, first: int, frames: int, wanted: Set[int] | None) -> Iterator[Numbered]:
    """Yield the frames of a video as `_frames_from` does, from the last safe keyframe up to `first` on.

    Every frame is compared with the time stamps of the packets. Frames that are neither wanted nor needed for others
    are not decoded, nor is what comes in the file after all wanted ones.

    Raises:
        _UncertainError: nothing can be left out, or a frame is not the one that the packets announce; or frames would
            be left out of interlaced ones, whose neighbours are needed.
        DataError: what is decoded is damaged.
    """
    with open_video(data) as (container, stream):
        # A packet for each frame, and an empty one, which flushes the decoder. A file of more packets is not safe.
        packets = list(islice(container.demux(stream), frames + 2))
        context = stream.codec_context
        codec, header = context.codec.canonical_name, bytes(context.extradata or b"")
        filled = [packet for packet in packets if packet.size]
        times = announced_times(filled, codec, frames)
        begin = last_safe_keyframe(filled, codec, header, frames, first)
        if times is None or not (begin or wanted) or (wanted and max(wanted) >= frames):
            raise _UncertainError

        numbers = {time: number for number, time in enumerate(times)}
        given, needed, spare = packets[begin:], list(range(begin, frames)), set[int]()
        skipped = [False] * len(given)
        if wanted:
            # Nothing behind the last wanted frame, in the order of the file, is needed for it.
            shown = [numbers[packet.pts or 0] for packet in filled]
            end = 1 + max(place for place, number in enumerate(shown) if number in wanted)
            given, shown = [*filled[begin:end], *packets[frames:]], shown[begin:end]
            skipped = [
                may and number not in wanted
                for may, number in zip(unreferenced(filled[begin:end], codec, header), shown, strict=True)
            ]
            needed = sorted(number for number, skips in zip(shown, skipped, strict=True) if not skips)
            spare = set(shown).difference(needed)

        came = 0
        for frame, shape in checked_frames(stream, _skipping(stream, given, skipped), MAX_FRAMES):
            number = numbers.get(frame.pts or 0, frames)
            as_announced = came < len(needed) and number == needed[came] and (came or frame.key_frame)
            if not as_announced and number not in spare:  # a decoder may show what it might have skipped
                raise _UncertainError
            if wanted and frame.interlaced_frame:
                raise _UncertainError
            yield number, frame, shape
            came += number not in spare
        if came < len(needed):
            raise _UncertainError


def _skipping(stream: av.VideoStream, packets: Sequence[av.Packet], skipped: Sequence[bool]) -> Iterator[av.Packet]:
    """Yield packets, and let the decoder skip the frames of those that `skipped` names, one for one from the first."""
    for place, packet in enumerate(packets):
        stream.codec_context.skip_frame = "NONREF" if place < len(skipped) and skipped[place] else "DEFAULT"
        yield packet


def from_zero(times: list[float]) -> np.ndarray:
    """Return times, in seconds, counted from the first: float64 (frames,). Raises DataError unless they ascend."""
    result = np.array(times, np.float64)
    if (np.diff(result) <= 0).any():
        number = int(np.argmax(np.diff(result) <= 0)) + 1
        raise DataError(f"frame {number} is not shown after the one before it")
    return result - result[:1]


def frame_rate(times: np.ndarray, nominal: float | None, tick: float) -> tuple[float, bool]:
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
