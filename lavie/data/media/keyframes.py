"""Packets that a decoder need not see: those before a safe keyframe, and those from which nothing is predicted.

Decoding may begin at a keyframe if later frames are then those of a full decode. That the container calls a packet a
keyframe is not enough: with an open group of pictures or a gradual refresh, frames after it are shown, or predicted,
across it. A keyframe is safe if

1. the packets of the file are, one for one, the frames that the index counts,
2. the codec's own syntax says that this keyframe resets its decoder, and
3. everything after it in the file is shown after it.

A frame need not be decoded if it is not wanted and the codec's syntax says that no other is predicted from it: in H.264
nal_ref_idc is 0; in H.265 it is a sub-layer non-reference picture, of the highest sub-layer, since pictures of higher
ones may be predicted from it.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np

CODECS = ("h264", "hevc", "vp8", "vp9")
"""FFmpeg's names of the codecs of which less than the whole file may be decoded."""
PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
"""The NAL unit types of parameter sets (ITU-T H.264 Table 7-1, H.265 Table 7-1)."""
RESETS = {"h264": (5,), "hevc": (19, 20)}
"""The NAL unit types of IDR pictures: nothing after one refers to anything before it (the same tables)."""
PICTURES = {"h264": range(6), "hevc": range(32)}
"""The NAL unit types that hold parts of a picture (the same tables)."""
UNREFERENCED_HEVC = range(0, 16, 2)
"""The NAL unit types of H.265's sub-layer non-reference pictures: TRAIL_N, TSA_N, STSA_N, RADL_N, RASL_N, and those
reserved for more (the same table)."""


def last_safe_keyframe(packets: Sequence[av.Packet], codec: str, extradata: bytes, frames: int, first: int) -> int:
    """Return the number of the last packet from which frame `first` and all later ones decode exactly.

    Where there is any doubt it is 0, the start of the file. The packet that is returned holds the frame of the same
    number.

    Args:
        packets: all packets of the stream in the order of the file, without the empty ones at its end.
        codec: FFmpeg's name of the codec.
        extradata: the header of the codec, from the container.
        frames: how many frames a full decode shows.
        first: the first frame that is wanted, from 0.
    """
    if codec not in CODECS or len(packets) != frames or not 0 < first < frames:
        return 0
    if any(p.pts is None or p.is_discard or p.is_corrupt or p.has_sidedata("new_extradata") for p in packets):
        return 0
    times = np.array([packet.pts for packet in packets], np.int64)
    sorted_times = np.sort(times)
    if (sorted_times[1:] == sorted_times[:-1]).any():
        return 0

    # Packet k holds frame k, and no later packet is shown before it, if its time is the k-th of all times and the
    # packets 0 .. k - 1 are shown before it.
    latest_before = np.append(np.iinfo(np.int64).min, np.maximum.accumulate(times)[:-1])
    is_closed = (times == sorted_times) & (latest_before < times)
    for number in np.flatnonzero(is_closed[: first + 1])[:0:-1].tolist():
        if packets[number].is_keyframe and _resets_decoder(packets, codec, extradata, number):
            return number
    return 0


def announced_times(packets: Sequence[av.Packet], codec: str, frames: int) -> list[int] | None:
    """Return when the frames of a video are shown by its packets, ascending, in ticks of the stream.

    None where the packets may not be, one for one, the frames, and for codecs that are not in CODECS.

    Args:
        packets, codec, frames: as for `last_safe_keyframe`.
    """
    if codec not in CODECS:
        return None
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if len(times) != frames or len(packets) != frames or len(set(times)) != frames:
        return None
    return None if any(packet.is_discard for packet in packets) else times


def unreferenced(packets: Sequence[av.Packet], codec: str, extradata: bytes) -> list[bool]:
    """Return for each packet whether the codec says that none of the others is predicted from its frame.

    Where there is any doubt, as for all codecs but H.264 and H.265, it is False.

    Args:
        packets: all that the decoder is given, in the order of the file.
        codec, extradata: as for `last_safe_keyframe`.
    """
    if codec not in PICTURES:
        return [False] * len(packets)
    units = [_picture_headers(packet, codec, extradata) for packet in packets]
    if codec == "h264":
        return [bool(pictures) and not any(first >> 5 & 3 for first, _ in pictures) for pictures in units]
    highest = max((second & 7 for pictures in units for _, second in pictures), default=0)
    return [
        bool(pictures)
        and all(first >> 1 & 63 in UNREFERENCED_HEVC and second & 7 == highest for first, second in pictures)
        for pictures in units
    ]


def _picture_headers(packet: av.Packet, codec: str, extradata: bytes) -> list[tuple[int, int]]:
    """Return the first two bytes of each NAL unit of a picture; none where the packet is not made of whole units."""
    try:
        units = list(_nal_units(memoryview(packet), codec, extradata))  # type: ignore[arg-type]
        return [(unit[0], unit[1]) for kind, unit in units if kind in PICTURES[codec]]
    except (IndexError, ValueError):
        return []


def _resets_decoder(packets: Sequence[av.Packet], codec: str, extradata: bytes, number: int) -> bool:
    """Return whether a decoder that has seen the header alone decodes packet `number` and what follows it."""
    data = memoryview(packets[number])  # type: ignore[arg-type]
    if codec == "vp8":  # RFC 6386, section 9.1: the lowest bit of a keyframe is 0
        return len(data) > 0 and not data[0] & 1
    if codec == "vp9":  # VP9 bitstream specification, 6.2: marker 2, profile below 3, no frame shown again, a keyframe
        return len(data) > 0 and data[0] >> 6 == 2 and data[0] >> 4 & 3 != 3 and not data[0] >> 2 & 3

    try:
        units = list(_nal_units(data, codec, extradata))
        pictures = [kind for kind, _ in units if kind in PICTURES[codec]]
        if not pictures or any(kind not in RESETS[codec] for kind in pictures):
            return False
        # A decoder that starts here has not seen the parameter sets in earlier packets: it must get each of them from
        # this packet or from the header.
        known_units = {bytes(unit) for _, unit in units}
        for packet in packets[:number]:
            for kind, unit in _nal_units(memoryview(packet), codec, extradata):  # type: ignore[arg-type]
                if kind in PARAMETER_SETS[codec] and bytes(unit) not in known_units and bytes(unit) not in extradata:
                    return False
        return True
    except (IndexError, ValueError):
        return False


def _nal_units(data: memoryview, codec: str, extradata: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the bytes of each NAL unit of an H.264 or H.265 packet.

    Raises:
        ValueError or IndexError: the packet is not made of NAL units with their lengths before them.
    """
    length_byte = {"h264": 4, "hevc": 21}[codec]
    if len(extradata) <= length_byte or extradata[0] != 1:
        raise ValueError("no avcC or hvcC: units are found by start codes, which is left to the decoder")
    width = (extradata[length_byte] & 3) + 1
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + width], "big")
        unit = data[start + width : start + width + size]
        if not size or len(unit) != size:
            raise ValueError("a NAL unit is cut short")
        yield unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit
        start += width + size
