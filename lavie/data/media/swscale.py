"""The flags of swscale, FFmpeg's converter of colours, with which it gives the same pixels on every processor."""

from av.video.reformatter import Interpolation

TO_YUV = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""RGB to YUV. Without the last two, swscale's AVX2 code rounds some chroma differently from its other code."""
TO_RGB = TO_YUV | Interpolation.FULL_CHR_H_INT
"""YUV to RGB: every channel is within half a level of the formula, because chroma is interpolated for every pixel."""
