"""The decoding of stills."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from ...errors import DataError
from .formats import check_size, sniff
from .icc import in_srgb


def decode_image(data: bytes) -> np.ndarray:
    """Decode a jpg, png or gif of one frame: uint8 (H, W, 3), sRGB, upright by EXIF, transparency laid on white.

    Raises:
        DataError: as for `read_image`.
    """
    return read_image(data)[0]


def read_image(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of `decode_image`, and what had to be interpreted, as in `MediaInfo.notes`.

    Raises:
        DataError: the file is of another format, damaged, past the limits, or has more than 8 bits per channel.
    """
    if sniff(data) not in ("jpg", "png", "gif"):
        raise DataError("no jpg, png or gif")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits of check_size are tighter
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF"))
        check_size(*image.size)
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{image.mode} pixels: wanted 8 bits per channel")
        image, note = in_srgb(ImageOps.exif_transpose(image))
        pixels = on_white(np.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))
        return pixels, (note,) if note else ()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be decoded: {error}") from None


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Lay pixels with transparency, uint8 (H, W, 4), RGBA, on white: uint8 (H, W, 3). Opaque RGB stays as it is."""
    if pixels.shape[2] == 3:
        return pixels
    image = Image.fromarray(pixels)
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
