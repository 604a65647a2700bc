"""Videos of a few frames whose faults are known, and the clips that DALI is given of them."""

import dataclasses
import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from lavie.data.decoders.choice import missing_dali
from lavie.data.decoders.clip import EncodedClip
from lavie.data.decoders.dali_rules import clip_for_dali
from lavie.data.media.decode import probe
from lavie.data.shards.index_file import Sample

CPU = torch.device("cpu")
requires_dali = pytest.mark.skipif(missing_dali() is not None, reason="DALI is not installed")


def shapes(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return frames whose grey level tells their number, with a red patch and a white bar that moves."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = 20 + 200 * i // count
        frame[:, (3 * i) % (width - 8) :][:, :8] = 255
        frame[:10, :10] = 200, 30, 60
    return frames


def encode(
    frames, codec="libvpx-vp9", container="webm", *, gop=12, matrix=2, times=None, options=None, extra=0
) -> bytes:
    """Return a video file of `frames`, uint8 (F, H, W, 3).

    Args:
        frames: its pictures.
        codec: FFmpeg's name of the encoder.
        container: FFmpeg's name of the format.
        gop: most frames from one keyframe to the next.
        matrix: the number of the colour matrix, by which pixels are converted and which the file names.
        times: of the frames in milliseconds; None: 24 frames a second.
        options: of the encoder.
        extra: how many more video streams there are, all with these frames.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        streams = []
        for _ in range(1 + extra):
            stream = out.add_stream(codec, rate=24, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.gop_size, context.thread_count, context.colorspace = gop, 1, matrix
            if times is not None:
                context.time_base = Fraction(1, 1000)
            streams.append(stream)
        for i, pixels in enumerate(frames):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=matrix if matrix != 2 else 5)
                frame.colorspace = matrix
                if times is not None:
                    frame.pts, frame.time_base = times[i], Fraction(1, 1000)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode())
    return file.getvalue()


def sample(data: bytes, key: str = "clip") -> Sample:
    """Return the entry that an index has of a file."""
    facts = dataclasses.asdict(probe(data))
    known = {field.name: None for field in dataclasses.fields(Sample)}
    known |= {"shard": "0.tar", "key": key, "member": key, "size": len(data)}
    return Sample(**{name: facts.get(name, value) for name, value in known.items()})


def encoded(data: bytes, indices, device="cpu", u=0.5, v=0.5) -> EncodedClip | str:
    """Return the clip that DALI is given of a file, or why it is given none."""
    return clip_for_dali(sample(data), data, np.array(indices), u, v, device)
