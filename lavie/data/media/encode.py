"""The encoding of frames to an H.264 mp4, the same bytes on every run, or to a VP9 webm, which DALI decodes on CPUs."""

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from .shown import BT601, MATRICES, guessed_matrix
from .swscale import TO_YUV

# Without cpu-independent x264 takes other algorithms on other processors. Its macroblock tree with AVX-512 takes eight
# macroblocks at a time, even past the end of a row of no multiple of eight, where memory was never written,
# and the bytes then differ from run to run.
X264 = {"crf": "12", "x264-params": "cpu-independent=1"}
"""x264's options: visually lossless (crf 0 is lossless, 23 its default), and the same bytes on every processor."""
LOSSLESS = {"qp": "0", "preset": "ultrafast", "x264-params": X264["x264-params"]}
"""x264's options for frames that come back bit for bit. Slower presets give the same frames in a smaller file."""
TICKS = 10_000
"""The clock of a file with a variable frame rate, in ticks per second."""


def encode_mp4(
    frames: Iterable[np.ndarray],
    fps: float | None = None,
    *,
    times: Iterable[float] | None = None,
    lossless: bool = False,
    gop: int = 8,
) -> bytes:
    """Encode frames as H.264 in an mp4, and return the file's bytes, the same on every run and processor.

    Args:
        frames: uint8 (F, H, W, 3), RGB; taken one by one, at least one. H and W must be even unless `lossless`.
        fps: frames per second, for a constant rate.
        times: when each frame is shown, in seconds from 0, for a variable rate; kept to 0.1 ms. Excludes `fps`.
        lossless: store RGB, bit for bit, instead of 4:2:0 at crf 12.
        gop: frames from one keyframe to the next.

    Raises:
        ValueError: both or neither of `fps` and `times` are given.
    """
    if (fps is None) == (times is None):
        raise ValueError("exactly one of fps and times")

    # With a variable rate, a frame's number does not tell its time: it is counted in ticks of a fine clock.
    rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(TICKS)
    ticks = None if times is None else [round(time * rate) for time in times]

    # Conversion and encoding take one thread each, since the bytes must not depend on the number of cores.
    file, reformatter = io.BytesIO(), VideoReformatter()
    with av.open(file, "w", format="mp4") as container:
        for number, pixels in enumerate(frames):
            # The first frame tells the size.
            if number == 0:
                stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "rgb24" if lossless else "yuv420p"
                stream.options = {**(LOSSLESS if lossless else X264)}
                stream.codec_context.time_base = 1 / rate
                stream.codec_context.thread_count = 1  # x264's bytes depend on the number of threads
                stream.codec_context.gop_size = gop
                _name_matrix(stream)
            frame = _converted(pixels, stream, reformatter)
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def encode_vp9(frames: Iterable[np.ndarray], fps: float, gop: int = 12) -> bytes:
    """Encode frames as VP9, with 4:2:0 chroma, in a webm, and return the file's bytes.

    DALI decodes VP9 on a CPU, and H.264 only on a GPU: the test clip that decides about DALI on a CPU, and some of the
    benchmark's clips, are made here. The encoder's fastest setting is taken, so the quality is low for the size.

    Args:
        frames: uint8 (F, H, W, 3), RGB; taken one by one, at least one, all of one size.
        fps: frames per second.
        gop: frames from one keyframe to the next.
    """
    file, reformatter = io.BytesIO(), VideoReformatter()
    with av.open(file, "w", format="webm") as container:
        for number, pixels in enumerate(frames):
            # The first frame tells the size.
            if number == 0:
                stream = container.add_stream(
                    "libvpx-vp9",
                    rate=Fraction(fps).limit_denominator(1001),
                    options={"deadline": "realtime", "cpu-used": "8"},
                )
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
                _name_matrix(stream)
            container.mux(stream.encode(_converted(pixels, stream, reformatter)))
        container.mux(stream.encode())
    return file.getvalue()


def _name_matrix(stream: av.VideoStream) -> None:
    """Let a file of HD size name BT.709; a smaller one names nothing, and every player takes it as BT.601."""
    matrix = guessed_matrix(stream.width, stream.height)
    if stream.pix_fmt != "rgb24" and matrix != BT601:
        stream.codec_context.colorspace = matrix


def _converted(pixels: np.ndarray, stream: av.VideoStream, reformatter: VideoReformatter) -> av.VideoFrame:
    """Return RGB pixels, uint8 (H, W, 3), as a frame of the stream's format, by the matrix of its size."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    matrix = MATRICES[guessed_matrix(stream.width, stream.height)]
    return reformatter.reformat(frame, format=stream.pix_fmt, dst_colorspace=matrix, interpolation=TO_YUV, threads=1)
