"""A decoded frame as a player shows it: colours, brightness, transparency, shape and orientation.

1. YUV becomes RGB by the matrix that the file names, or by the one that players take where it names none.
2. High dynamic range (PQ, HLG) becomes standard range: white paper becomes white (see `hdr`).
3. Transparency is laid on white.
4. What the container crops is cut off.
5. Pixels that are not square become square, and the picture is turned, or mirrored, upright.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from PIL import Image

from ...errors import DataError
from .formats import check_size
from .hdr import to_standard_range
from .image import on_white
from .streams import NO_CROP, Crop
from .swscale import TO_RGB

SQUARE = Fraction(1, 100)
"""How far a pixel's aspect may be from 1 and count as 1: encoders write 3201:3200."""
HD_WIDTH, HD_HEIGHT = 1280, 577
"""From so many pixels across or down, a video that names no colour matrix counts as BT.709, and below as BT.601: the
guess of mpv and of browsers."""
BT709, BT601, BT2020 = 1, 6, 9
"""Matrices by their numbers in ITU-T H.273; BT.601 is 5 as well."""
MATRICES = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    BT601: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
}
"""The matrices that are converted, by their numbers in ITU-T H.273, as swscale names them."""
RGB, UNSPECIFIED = 0, 2
"""The numbers in H.273 of pixels that are RGB already, and of what the file does not name."""
UNNAMED = (RGB, UNSPECIFIED, 3)
"""The matrices that tell nothing of YUV; 3 is reserved in H.273, and some encoders write it."""
DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
"""The names that MP4 has for streams whose colours Dolby Vision alone may define."""
HDR = {16: "PQ", 18: "HLG"}
"""The transfer characteristics of high dynamic range, by their numbers in H.273."""
WIDE = "gbrp16le"
"""FFmpeg's RGB of 16 bits. It is planar, because swscale overflows where it writes packed 16-bit RGB from 4:2:0."""
UPRIGHT = (1, 0, 0, 1)
"""The turn that leaves a picture as it is."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file says of the shape of its frames, beside their size."""

    aspect: Fraction = Fraction(1)
    """The width of a pixel over its height."""
    crop: Crop = NO_CROP
    """The borders that are not shown."""


def shown_pixels(frame: av.VideoFrame, shape: Shape, reformatter: VideoReformatter) -> np.ndarray:
    """Return a frame as it is shown: uint8 (H, W, 3), RGB.

    Args:
        frame: the decoded frame.
        shape: of the frame.
        reformatter: kept from frame to frame, since setting it up is slow.

    Raises:
        DataError: the colours or the orientation are of a kind that is not read.
    """
    pixels = on_white(_rgba(frame, reformatter))
    left, right, top, bottom = shape.crop
    pixels = pixels[top : frame.height - bottom, left : frame.width - right]
    width, height = _square_size(frame, shape)
    if (width, height) != (pixels.shape[1], pixels.shape[0]):
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    across, down_to_across, across_to_down, down = turn(frame)
    if down_to_across:
        pixels = pixels.transpose(1, 0, 2)
    if across + down_to_across < 0:
        pixels = pixels[:, ::-1]
    if down + across_to_down < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def shown_size(frame: av.VideoFrame, shape: Shape) -> tuple[int, int]:
    """Return (width, height) of a frame as it is shown. The arguments are those of `shown_pixels`.

    Raises:
        DataError: the size is past the limits, nothing is left of the frame by its crop, or the orientation is of a
            kind that is not read.
    """
    width, height = _square_size(frame, shape)
    check_size(width, height)
    return (height, width) if turn(frame)[1] else (width, height)


def _square_size(frame: av.VideoFrame, shape: Shape) -> tuple[int, int]:
    """Return (width, height) with square pixels, before the picture is turned: the short side of a pixel grows."""
    left, right, top, bottom = shape.crop
    width, height, aspect = frame.width - left - right, frame.height - top - bottom, shape.aspect
    if aspect <= 0 or abs(aspect - 1) <= SQUARE:
        return width, height
    if aspect > 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def turn(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return how a frame is turned or mirrored to be upright, from its display matrix.

    Returns:
        (a, c, b, d), each -1, 0 or 1: a stored place (x, y) is shown at (a x + c y, b x + d y), up to a shift.

    Raises:
        DataError: the picture is shown at an angle that is no multiple of 90 degrees.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return UPRIGHT
    a, b, _, c, d = (float(value) for value in np.frombuffer(side_data, np.int32)[:5])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if straight == crossed == 0:  # a header that was never filled in
        return UPRIGHT
    # Up to a degree counts as rounding, as in the ffmpeg command.
    if min(straight, crossed) > 0.0175 * max(straight, crossed):
        raise DataError(f"it is shown turned by {frame.rotation} degrees: wanted a multiple of 90")
    if straight > crossed:
        return _sign(a), 0, 0, _sign(d)
    return 0, _sign(c), _sign(b), 0


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def colour_matrix(frame: av.VideoFrame) -> int:
    """Return the number in ITU-T H.273 of the matrix by which a frame is converted, guessed where none is named.

    Raises:
        DataError: the file names a matrix that is not in MATRICES.
    """
    if is_rgb(frame):
        return RGB
    named = int(frame.colorspace)
    if named in MATRICES:
        return named
    if named not in UNNAMED:
        wanted = ", ".join(map(str, MATRICES))
        raise DataError(f"its colour matrix is number {named} of ITU-T H.273: wanted one of {wanted}")
    if int(frame.color_trc) in HDR:
        return BT2020
    return guessed_matrix(frame.width, frame.height)


def guessed_matrix(width: int, height: int) -> int:
    """Return the number in ITU-T H.273 of the matrix of a video that names none, by its stored size in pixels."""
    return BT709 if width >= HD_WIDTH or height >= HD_HEIGHT else BT601


def names_matrix(frame: av.VideoFrame) -> bool:
    """Return whether a frame needs no guess at its colour matrix."""
    return is_rgb(frame) or int(frame.colorspace) not in UNNAMED


def check_dolby_vision(frame: av.VideoFrame, codec_tag: str) -> None:
    """Raise a DataError if only a Dolby Vision player can show a frame: its colours are no YUV (profile 5).

    Other profiles name the standard colours, mostly HLG or PQ, of what every player shows.
    """
    by_dolby = codec_tag in DOLBY_VISION or frame.side_data.get("DOVI_METADATA") is not None
    if by_dolby and not names_matrix(frame) and int(frame.color_trc) not in HDR:
        raise DataError("Dolby Vision without a picture for other players (profile 5): convert it to HLG, PQ or BT.709")


def is_rgb(frame: av.VideoFrame) -> bool:
    """Return whether a frame's pixels are RGB, or colours of a palette, which need no matrix."""
    return frame.format.is_rgb or frame.format.has_palette


def has_alpha(frame: av.VideoFrame) -> bool:
    """Return whether a frame's pixels can be transparent."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _rgba(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Return the stored pixels in standard range: uint8 (H, W, 3), or (H, W, 4) if they can be transparent."""
    matrix = colour_matrix(frame)
    options: dict[str, Any] = {}
    if matrix != RGB:
        options = {"src_colorspace": MATRICES[matrix], "dst_colorspace": MATRICES[matrix]}

    def converted(format: str) -> np.ndarray:
        """Return the pixels in an RGB format of FFmpeg."""
        return reformatter.reformat(frame, format=format, interpolation=TO_RGB, threads=1, **options).to_ndarray()

    transfer = HDR.get(int(frame.color_trc))
    if transfer is None:
        return converted("rgba" if has_alpha(frame) else "rgb24")
    pixels = to_standard_range(converted(WIDE), transfer)
    return np.dstack([pixels, converted("rgba")[..., 3]]) if has_alpha(frame) else pixels
