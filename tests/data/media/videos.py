"""Video files of a few frames in any pixel format, with the tags that a test wants."""

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

NONE, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic


def encode(
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    format: str = "yuv420p",
    *,
    source: str = "rgb24",
    container: str = "mp4",
    size: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    change: Callable[[av.VideoFrame], None] = lambda frame: None,
) -> bytes:
    """Return a video file at 8 frames per second.

    Args:
        frames: arrays as PyAV takes them for `source`.
        codec: FFmpeg's name of the encoder.
        format: of the encoded pixels.
        source: the pixel format of `frames`.
        container: FFmpeg's name of the container.
        size: (height, width) of the video, where those of the arrays are not.
        options: of the encoder.
        tags: attributes of the codec's context, such as color_trc.
        metadata: of the stream.
        change: is called with each frame before it is encoded.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=8, options=options or {})
        stream.height, stream.width = size or frames[0].shape[:2]
        stream.pix_fmt = format
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        stream.metadata.update(metadata or {})
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=source)
            frame.pts, frame.time_base = number, Fraction(1, 8)
            for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
                if name in (tags or {}):
                    setattr(frame, name, tags[name])
            change(frame)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def several(container: str, *streams: tuple[str, tuple[int, int], int, Disposition]) -> bytes:
    """Return a file of grey video streams, each given by codec, (height, width), frames and disposition."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        made = []
        for codec, (height, width), frames, disposition in streams:
            stream = out.add_stream(codec, rate=8)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append((stream, frames, (height, width, 3)))
        for stream, frames, shape in made:
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full(shape, 8 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 8)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return file.getvalue()


def yuv(patches: np.ndarray, bits: int, matrix: tuple[float, float], side: int = 16, full: bool = False) -> np.ndarray:
    """Return a row of square patches of R'G'B', float (n, 3) in [0, 1], as packed 4:2:0 of PyAV.

    Args:
        patches: the colours.
        bits: per sample: 8 or 10.
        matrix: the weights of red and of blue in luma.
        side: pixels along the side of a patch.
        full: whether samples take the full range.
    """
    red, blue = matrix
    luma = patches @ [red, 1 - red - blue, blue]
    chroma = (patches[:, 2] - luma) / (2 - 2 * blue), (patches[:, 0] - luma) / (2 - 2 * red)
    one = 1 << bits - 8
    black, black_to_white, spread = (0, 256 * one - 1, 256 * one - 1) if full else (16 * one, 219 * one, 224 * one)
    dtype = np.uint8 if bits == 8 else np.uint16

    def plane(values: np.ndarray, side: int) -> np.ndarray:
        """Return a plane of patches, (side, n side)."""
        return np.tile(np.repeat(np.rint(values).clip(0, 256 * one - 1).astype(dtype), side), (side, 1))

    planes = [plane(black + black_to_white * luma, side)]
    planes += [plane(128 * one + spread * values, side // 2) for values in chroma]
    return np.concatenate([p.reshape(-1) for p in planes]).reshape(side * 3 // 2, -1)


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return an MP4 file whose header turns or mirrors the picture.

    matrix: (a, b, c, d): a stored place (x, y) is shown at (a x + c y, b x + d y).
    """
    changed = bytearray(data)
    a, b, c, d = (value << 16 for value in matrix)
    place = changed.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, layer, volume
    changed[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(changed)


def with_clap(data: bytes, width: int, height: int, across: Fraction, down: Fraction) -> bytes:
    """Return a mov or MP4 file of H.264 with a clean aperture (ISO/IEC 14496-12, section 12.1.4).

    Args:
        data: the file, whose samples lie before its header.
        width: of what is shown, in pixels.
        height: likewise.
        across: where its centre lies to the right of the frame's.
        down: where it lies below it.
    """
    numbers = [part for value in (width, height, across, down) for part in Fraction(value).as_integer_ratio()]
    box = struct.pack(">I4s8i", 40, b"clap", *numbers)
    changed = bytearray(data)
    assert changed.index(b"mdat") < changed.index(b"moov")
    entry = changed.index(b"avc1", changed.index(b"stsd")) - 4
    end = entry + int.from_bytes(changed[entry : entry + 4])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = entry if name == b"avc1" else changed.index(name) - 4
        size = int.from_bytes(changed[place : place + 4]) + len(box)
        changed[place : place + 4] = size.to_bytes(4)
    changed[end:end] = box
    return bytes(changed)


def remuxed(data: bytes, container: str) -> bytes:
    """Return the packets of a video in another container, with what the old one says of the stream."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return file.getvalue()
