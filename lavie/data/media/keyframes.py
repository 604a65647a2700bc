"""Where in a file decoding may begin so that the frames from some number on come out as they do from the start.

A keyframe by the container's word is not enough: with an open GOP or a gradual refresh, what follows it is shown, or
predicted, across it. So the packets must be the frames that the index counts, the keyframe one that resets its decoder
by the codec's own syntax, and everything after it in the file must be shown after it.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np

PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
"""NAL unit types (ITU-T H.264 Table 7-1, H.265 Table 7-1)."""
RESETS = {"h264": (5,), "hevc": (19, 20)}
"""IDR pictures: nothing after them refers to anything before them."""


def last_safe_keyframe(packets: Sequence[av.Packet], codec: str, extradata: bytes, frames: int, first: int) -> int:
    """The number of the last packet from which frame `first` and all after it decode exactly; 0 where in doubt.

    packets: all of the stream in the order of the file, without the empty ones at its end. frames: the video's, as a
    full decode counts them. Then packet k is also frame k.
    """
    if codec not in ("h264", "hevc", "vp8", "vp9") or len(packets) != frames or not 0 < first < frames:
        return 0
    if any(p.pts is None or p.is_discard or p.is_corrupt or p.has_sidedata("new_extradata") for p in packets):
        return 0
    shown = np.array([p.pts for p in packets], np.int64)
    order = np.sort(shown)
    if (order[1:] == order[:-1]).any():
        return 0
    # Packet k is frame k and no later one is shown before it, if it is the k-th of all and the first k are before it.
    closed = (shown == order) & (np.append(np.iinfo(np.int64).min, np.maximum.accumulate(shown)[:-1]) < shown)
    for number in np.flatnonzero(closed[: first + 1])[:0:-1].tolist():
        if packets[number].is_keyframe and _resets(packets, codec, extradata, number):
            return number
    return 0


def _resets(packets: Sequence[av.Packet], codec: str, extradata: bytes, number: int) -> bool:
    """Whether a decoder that has seen the header alone decodes packet `number` and what follows."""
    data = memoryview(packets[number])  # type: ignore[arg-type]
    if codec == "vp8":  # RFC 6386, 9.1
        return len(data) > 0 and not data[0] & 1
    if codec == "vp9":  # VP9 bitstream specification, 6.2: marker 2, profile below 3, no frame shown again, a keyframe
        return len(data) > 0 and data[0] >> 6 == 2 and data[0] >> 4 & 3 != 3 and not data[0] >> 2 & 3
    try:
        units = [*_units(data, codec, extradata)]
        pictures = [kind for kind, _ in units if kind < (6 if codec == "h264" else 32)]
        if not pictures or any(kind not in RESETS[codec] for kind in pictures):
            return False
        # A decoder that starts here has not seen the parameter sets in the packets before.
        sets, known = PARAMETER_SETS[codec], {bytes(unit) for _, unit in units}
        before = (unit for packet in packets[:number] for unit in _units(memoryview(packet), codec, extradata))  # type: ignore[arg-type]
        return all(kind not in sets or bytes(unit) in known or bytes(unit) in extradata for kind, unit in before)
    except (IndexError, ValueError):
        return False


def _units(data: memoryview, codec: str, extradata: bytes) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of the NAL units of a packet. Raises ValueError or IndexError if it is not made of them."""
    place = {"h264": 4, "hevc": 21}[codec]
    if len(extradata) <= place or extradata[0] != 1:
        raise ValueError("no avcC or hvcC: units are found by start codes, which is left to the decoder")
    width = (extradata[place] & 3) + 1
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + width], "big")
        unit = data[start + width : start + width + size]
        if not size or len(unit) != size:
            raise ValueError("a NAL unit is cut short")
        yield unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit
        start += width + size
