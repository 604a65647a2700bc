"""The making of a film's clips in the sandbox's child: copied where that is exact, encoded where it is not.

1. Clips whose packets can be copied are copied, and decoded; one that shows other frames than the film is encoded.
2. The others are encoded from frames that a seek finds, told by their checksums.
3. Where a seek leads astray, the clips from there on are encoded in one decode from the start of the film.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np

from ...data.media.decode import checked_frames
from ...data.media.interlace import Numbered, progressive
from ...data.media.streams import open_video
from ...errors import DataError
from .clip_file import Appearance, examine, like_frames, same_frames
from .copying import NO_KEYFRAME, clip_format, muxed, packets_of
from .encoding import ClipEncoder
from .exact import AstrayError, Identity, OrderedFrames, SoughtFrames
from .sound import with_sound


class Wanted(NamedTuple):
    """A clip that is to be made."""

    place: int
    """What it is told by."""
    start: int
    """Its first frame, counted from 0."""
    end: int
    """The frame behind its last one."""
    is_key: bool
    """Whether the scan saw a keyframe at its start."""


Left = list[tuple[Wanted, list[str]]]
"""Clips that are still to be made, each with the reasons why it was not copied."""


def make_clips(file: BinaryIO, film: Mapping[str, Any], clips: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Yield the clips of a film; runs in the child.

    Args:
        file: the film.
        film: what is known of it, as `film.facts_for_child` gives it.
        clips: the values of each Wanted, in the order of their frames.

    Yields:
        {"at": place} before a clip is worked on. Then either its facts, with its place, method, why and format, and
        after them its bytes; or its place and the "error" for which there is none.

    Raises:
        DataError: the film cannot be opened.
    """
    identity = Identity(film["pts"], film["checksum"])
    left: Left = [(Wanted(*clip), list(film["reasons"])) for clip in clips]
    if not film["reasons"]:
        left = yield from _copied(file, film, identity, [clip for clip, _ in left])
    for source in (SoughtFrames, OrderedFrames):
        if left:
            left = yield from _encoded(file, film, identity, left, source)


def _copied(
    file: BinaryIO, film: Mapping[str, Any], identity: Identity, clips: Sequence[Wanted]
) -> Generator[Any, None, Left]:
    """Yield the clips that can be copied, and return the others."""
    left: Left = []
    with open_video(file, None, first=True) as (container, stream):
        appearance = Appearance.of(*next(checked_frames(stream, container.demux(stream), None)))
        format = clip_format(film["codec"], container)
        for clip in clips:
            yield {"at": clip.place}
            why = NO_KEYFRAME
            if clip.is_key:
                try:
                    packets, why = packets_of(container, stream, identity.pts, clip.start, clip.end)
                    if not why:
                        data, sound = _sounding(muxed(packets, stream, format), format, film, clip, container)
                        times = _seconds(film, clip)
                        facts = examine(data, times, same_frames(identity, clip.start), appearance) | sound
                except DataError as error:
                    why = f"a copy is not exact: {error}"
                except (av.FFmpegError, ValueError) as error:
                    why = f"a copy cannot be made: {error}"
            if why:
                left.append((clip, [why]))
            else:
                yield facts | {"place": clip.place, "method": "copy", "why": [], "format": format}
                yield data
    return left


def _encoded(
    file: BinaryIO, film: Mapping[str, Any], identity: Identity, left: Left, kind: type[SoughtFrames | OrderedFrames]
) -> Generator[Any, None, Left]:
    """Yield clips that are encoded, and return those that are left where a seek led astray."""
    unit = Fraction(*film["time_base"])
    rate = Fraction(film["fps"]).limit_denominator(1001)
    ticks = (identity.pts, unit) if film["vfr"] else None
    encoder = ClipEncoder(film["box"], film["keeps_samples"], rate, ticks)
    with open_video(file, None, first=True) as (container, stream):
        source = kind(container, stream, identity)
        for number, (clip, why) in enumerate(left):
            yield {"at": clip.place}
            try:
                frames = _frames(source, clip, len(identity.pts), film["interlaced"])
                data, ends = encoder.encode(frames, clip.end - clip.start)
                data, sound = _sounding(data, "mp4", film, clip, container if kind is SoughtFrames else None)
                facts = examine(data, encoder.times(clip.start, clip.end), like_frames(ends)) | sound
            except AstrayError:
                return left[number:]
            except (DataError, av.FFmpegError, ValueError) as error:
                yield {"place": clip.place, "error": str(error)}
                continue
            yield facts | {"place": clip.place, "method": "encode", "why": why, "format": "mp4"}
            yield data
    return []


def _sounding(
    data: bytes, format: str, film: Mapping[str, Any], clip: Wanted, container: Any
) -> tuple[bytes, dict[str, Any]]:
    """Return a clip with the sound of its film if that is wanted, and what is told of it.

    Args:
        data: the clip.
        format: of the clip.
        film: what is known of the film.
        clip: which one it is.
        container: the open film; None if seeks in it lead astray.
    """
    if not film["keep_audio"]:
        return data, {"audio": False, "note": ""}
    pts, unit = film["pts"], Fraction(*film["time_base"])
    ends = pts[clip.end] * unit if clip.end < len(pts) else pts[-1] * unit + 1 / Fraction(film["fps"])
    found = with_sound(data, format, container, pts[clip.start] * unit, ends)
    return found.data, {"audio": found.audio, "note": found.note}


def _seconds(film: Mapping[str, Any], clip: Wanted) -> np.ndarray:
    """Return when the frames of a clip are shown in its film: float64 (F,), seconds from its first."""
    ticks = np.array(film["pts"][clip.start : clip.end], np.int64)
    return (ticks - ticks[0]) * float(Fraction(*film["time_base"]))


def _frames(source: SoughtFrames | OrderedFrames, clip: Wanted, count: int, interlaced: bool) -> Iterator[Numbered]:
    """Yield the frames of a clip, those that are interlaced as they are at their first moment.

    Args:
        source: the film.
        clip: the clip.
        count: the frames of the film.
        interlaced: whether some of them are interlaced, for which the frames around are needed.
    """
    if not interlaced:
        yield from source.frames(clip.start, clip.end)
        return
    around = source.frames(max(0, clip.start - 1), min(clip.end + 1, count))
    for number, frame, shape in progressive(around, range(clip.start, clip.end)):
        if clip.start <= number < clip.end:
            yield number, frame, shape
