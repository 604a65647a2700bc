"""The sound of a clip: the packets of its film's first sound track that begin within it, as they are.

A packet of sound is some 20 ms long, so that a clip's sound may begin and end so much late. What the clip's container
does not take is left out, and a note says so.
"""

import io
from fractions import Fraction
from typing import Any, NamedTuple

import av

from .copying import EXACT_BYTES, MUXERS

EARLY = 1.0
"""Seconds before a clip from which its sound is looked for: files store it up to so much ahead of the picture."""


class WithSound(NamedTuple):
    """A clip to which sound was to be added."""

    data: bytes
    """Its file, with sound if there is any."""
    audio: bool
    """Whether there is."""
    note: str
    """Why the film's sound was left out; empty if it has none or was not."""


def with_sound(data: bytes, format: str, film: Any, start: Fraction, end: Fraction) -> WithSound:
    """Add the sound of its film to a clip.

    Args:
        data: the clip.
        format: of the clip, one of MUXERS.
        film: the open film, in which a seek is made; None for one that cannot be sought in.
        start: when the clip's first frame is shown, in seconds of the film's clock.
        end: when its last one ends.
    """
    if film is None:
        return WithSound(data, False, "its sound is left out: seeks in the film lead astray")
    if not film.streams.audio:
        return WithSound(data, False, "")
    track = film.streams.audio[0]
    codec = track.codec_context.name if track.codec_context else "of unknown codec"
    try:
        packets = _packets(film, track, start, end)
        if not packets:
            return WithSound(data, False, "its sound is left out: the film has none here")
        return WithSound(_joined(data, format, track, packets), True, "")
    except (av.FFmpegError, ValueError) as error:
        return WithSound(data, False, f"its sound, {codec}, is left out: {format} does not take it ({error})")


def _packets(film: Any, track: av.AudioStream, start: Fraction, end: Fraction) -> list[av.Packet]:
    """Return the packets that begin within a clip, their time stamps counted from its start."""
    unit = track.time_base
    assert unit is not None
    film.seek(int((start - Fraction(EARLY)) * av.time_base))
    found, shift = [], round(start / unit)
    for packet in film.demux(track):
        if not packet.size or packet.pts is None or packet.pts * unit < start:
            continue
        if packet.pts * unit >= end:
            break
        packet.pts -= shift
        packet.dts = packet.pts  # sound is stored in its order
        found.append(packet)
    return found


def _joined(data: bytes, format: str, track: av.AudioStream, packets: list[av.Packet]) -> bytes:
    """Return the packets of a clip and some of sound in one file; the latter are used up."""
    file = io.BytesIO()
    muxer = MUXERS[format]
    with (
        av.open(io.BytesIO(data), "r") as clip,
        av.open(file, "w", format=muxer, container_options=EXACT_BYTES) as out,
    ):
        pictures = out.add_stream_from_template(clip.streams.video[0], opaque=True)
        sound = out.add_stream_from_template(track, opaque=True)
        for packet in packets:  # FFmpeg holds them back until the picture is as far
            packet.stream = sound
            out.mux(packet)
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
    return file.getvalue()
