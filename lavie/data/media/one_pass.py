"""A decoded frame converted to RGB and scaled in one pass of FFmpeg's swscale: data.resampler swscale-1.

The way without it converts at the size of the source and lets Pillow scale and cut in one pass. Here the whole frame is
scaled, and `clips.fit` cuts whole pixels out of it. The pixels of the two ways differ: other filters, other rounding,
and a cut that lies up to half a pixel elsewhere. Therefore the way has a name with a number, which rises whenever its
pixels change.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from .clips import Crop, cut_scale
from .shown import HDR, MATRICES, RGB, SQUARE, UPRIGHT, Shape, colour_matrix, has_alpha, shown_pixels, turn
from .streams import NO_CROP
from .swscale import TO_RGB

SCALED = (TO_RGB & ~Interpolation.BILINEAR) | Interpolation.BICUBIC
"""swscale's flags: a bicubic filter, which widens with the reduction; else those of the conversion alone."""


def scaled_pixels(
    frame: av.VideoFrame, shape: Shape, reformatter: VideoReformatter, height: int, width: int, crop: Crop
) -> np.ndarray:
    """Return a frame as it is shown, scaled by `cut_scale` where one pass can: uint8 (H, W, 3), RGB.

    Frames that want more than their colours and another size (turned, cropped, of pixels not square, transparent, of
    high dynamic range) come out at their own size, as those that are not scaled do.

    Args:
        frame, shape, reformatter: as for `shown_pixels`.
        height, width, crop: the cut, as for `clips.fit`.

    Raises:
        DataError: as for `shown_pixels`.
    """
    scale = cut_scale(frame.height, frame.width, height, width, crop)
    if scale == 1 or not _is_plain(frame, shape):
        return shown_pixels(frame, shape, reformatter)
    options = {}
    if (matrix := colour_matrix(frame)) != RGB:
        options = {"src_colorspace": MATRICES[matrix], "dst_colorspace": MATRICES[matrix]}
    size = {"width": round(frame.width * scale), "height": round(frame.height * scale)}
    scaled = reformatter.reformat(frame, format="rgb24", interpolation=SCALED, threads=1, **size, **options)
    return scaled.to_ndarray()


def _is_plain(frame: av.VideoFrame, shape: Shape) -> bool:
    """Return whether a frame is shown as it is stored, but for its colours."""
    upright = shape.crop == NO_CROP and abs(shape.aspect - 1) <= SQUARE and turn(frame) == UPRIGHT
    return upright and not has_alpha(frame) and int(frame.color_trc) not in HDR
