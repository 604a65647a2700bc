"""Frames to an H.264 mp4, the same bytes on every run; or to a VP9 webm, which DALI decodes on a CPU too."""

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# Without cpu-independent x264 takes other algorithms on other processors. Its macroblock tree with AVX-512 takes eight
# macroblocks at a time, even past the end of a row of no multiple of eight, where memory was never written,
# and the bytes then differ from run to run.
X264 = {"crf": "12", "x264-params": "cpu-independent=1"}
"""x264's options: visually lossless (crf 0 is lossless, 23 its default), and the same bytes on every processor."""
LOSSLESS = {"qp": "0", "preset": "ultrafast", "x264-params": X264["x264-params"]}
SAME_ROUNDING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""swscale's flags: otherwise its AVX2 code rounds some chroma differently."""


def encode_mp4(
    frames: Iterable[np.ndarray],
    fps: float | None = None,
    *,
    times: Iterable[float] | None = None,
    lossless: bool = False,
    gop: int = 8,
) -> bytes:
    """An mp4 of frames uint8 (F, H, W, 3), RGB, at `fps`, or each shown at its of `times` (seconds, kept to 0.1 ms).

    Default: 4:2:0 at crf 12, which wants even H and W. lossless: RGB, bit for bit, any size. gop: frames from one
    keyframe to the next.
    """
    if (fps is None) == (times is None):
        raise ValueError("exactly one of fps and times")
    rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(10_000)
    file, reformatter = io.BytesIO(), VideoReformatter()
    with av.open(file, "w", format="mp4") as container:
        ticks = None if times is None else [round(t * rate) for t in times]
        for number, pixels in enumerate(frames):
            if number == 0:
                stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "rgb24" if lossless else "yuv420p"
                stream.options = {**(LOSSLESS if lossless else X264)}
                stream.codec_context.time_base = 1 / rate
                stream.codec_context.thread_count = 1  # x264's bytes depend on the number of threads
                stream.codec_context.gop_size = gop
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = reformatter.reformat(frame, format=stream.pix_fmt, interpolation=SAME_ROUNDING, threads=1)
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def encode_vp9(frames: Iterable[np.ndarray], fps: float, gop: int = 12) -> bytes:
    """A webm of frames uint8 (F, H, W, 3), RGB, at `fps`, a keyframe every `gop` frames, 4:2:0, quickly encoded."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        for number, pixels in enumerate(frames):
            if number == 0:
                stream = container.add_stream(
                    "libvpx-vp9",
                    rate=Fraction(fps).limit_denominator(1001),
                    options={"deadline": "realtime", "cpu-used": "8"},
                )
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
