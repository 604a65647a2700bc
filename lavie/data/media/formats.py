"""The formats that are read, told by a file's first bytes, and the largest frames that are read."""

from typing import Literal

from ...config.data import MAX_SIDE
from ...errors import DataError

MAX_PIXELS = 1 << 25
"""The most pixels that a frame may have; 8K UHD has 33.2 M. A small file can otherwise fill memory: a 199 kB mp4 can
hold 16 frames of 8192 x 8192, 3.2 GB of RGB."""

Format = Literal["mp4", "webm", "avi", "gif", "jpg", "png"]
"""The formats that are read. mp4 stands for its family (mp4, mov), webm for Matroska."""
DEMUXERS = {"mp4": "mov", "webm": "matroska", "avi": "avi", "gif": "gif"}
"""The formats of videos, and FFmpeg's demuxer of each."""


SNIFFED = 16
"""How many of a file's first bytes `sniff` looks at."""


def sniff(data: bytes) -> Format:
    """Return the format that the first bytes of a file announce. Raises DataError if it is none of `Format`."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
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
    raise DataError(f"no mp4, mov, webm, mkv, avi, gif, jpg or png: the content starts with {data[:SNIFFED]!r}")


def check_size(width: int, height: int) -> None:
    """Raise a DataError if a frame has no pixels, or more than the limits allow."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise DataError(f"{width} x {height} pixels: wanted 1 to {MAX_SIDE} a side and at most {MAX_PIXELS} in all")
