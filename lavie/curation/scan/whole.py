"""Whether a film's file is as long as its container announces: one that was cut short between two packets decodes.

1. mp4 and mov: a box with media or with the index of media (ISO/IEC 14496-12, section 4.2) ends within the file.
2. Matroska and WebM: the segment ends within the file (RFC 8794, section 6, and RFC 9559, section 5.1).
3. AVI: every RIFF chunk ends within the file.

Where the container does not tell (a size of "up to the end", a stream that was written live), nothing is found.
"""

import os
from typing import BinaryIO

from ...data.media.formats import SNIFFED, sniff
from ...errors import DataError

BOXES = (b"mdat", b"moov", b"moof")
"""The boxes of an mp4 that must be whole; what stands behind the last box may be anything."""
SEGMENT = b"\x18\x53\x80\x67"
"""The element that holds all media of a Matroska file."""
MOST = 1 << 20
"""Boxes or chunks that are looked at."""


def check_whole(file: BinaryIO) -> None:
    """Raise a DataError if a film's container announces more bytes than the file has; then go back to its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    format = sniff(file.read(SNIFFED))
    announced = {"mp4": _end_of_boxes, "webm": _end_of_segment, "avi": _end_of_chunks}.get(format)
    end = announced(file, size) if announced else 0
    file.seek(0)
    if end > size:
        raise DataError(f"it has {size} bytes, of {end} that its header announces: cut short")


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return where the last box of an mp4 ends that must be whole; 0 if there is none."""
    offset = end = 0
    for _ in range(MOST):
        file.seek(offset)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:])
        if len(head) < 8 or length < 8:  # 0: up to the end of the file
            break
        offset += length
        if kind in BOXES:
            end = offset
        if offset >= size:
            break
    return end


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Return where the segment of a Matroska file ends; 0 if it does not tell."""
    file.seek(4)
    header = _variable_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return 0
    length = _variable_size(file)
    return 0 if length is None else file.tell() + length


def _variable_size(file: BinaryIO) -> int | None:
    """Return the size of a Matroska element, whose first bit that is set tells its own length; None if unknown."""
    first = int.from_bytes(file.read(1))
    if not first:
        return None
    more = 8 - first.bit_length()
    rest = file.read(more)
    most = (1 << 7 * (more + 1)) - 1
    value = int.from_bytes(bytes([first]) + rest) & most
    return None if value == most or len(rest) < more else value


def _end_of_chunks(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF chunk of an AVI ends; a large file has several. 0 if one does not tell."""
    offset = 0
    for _ in range(MOST):
        file.seek(offset)
        head = file.read(8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        offset += 8 + length + length % 2
        if offset >= size:
            break
    return offset
