"""Checksums of frames: those of their samples without padding."""

import zlib

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from lavie.curation.checksum import frame_checksum


def frame(format: str, width: int = 34, seed: int = 0) -> av.VideoFrame:
    pixels = np.random.default_rng(seed).integers(0, 256, (18, width, 3), np.uint8)
    return VideoReformatter().reformat(av.VideoFrame.from_ndarray(pixels, format="rgb24"), format=format)


@pytest.mark.parametrize("width", (34, 64))
@pytest.mark.parametrize("format", ("yuv420p", "yuvj420p", "yuv444p", "yuv420p10le", "nv12", "rgb24", "gray16le"))
def test_it_is_that_of_the_samples(format, width):
    one = frame(format, width)
    assert one.planes[0].line_size > width * one.format.components[0].bits // 8 or width == 64
    assert frame_checksum(one) == zlib.crc32(one.to_ndarray().tobytes())


@pytest.mark.parametrize("format", ("yuva420p", "gbrp10le", "p010le", "monob", "yuyv422", "yuv410p"))
def test_every_sample_counts(format):
    one = frame(format)
    assert frame_checksum(one) == frame_checksum(frame(format))
    assert frame_checksum(one) != frame_checksum(frame(format, seed=1))
    last = one.planes[-1]
    samples = np.frombuffer(last, np.uint8).copy()
    before = frame_checksum(one)
    used = samples[: last.line_size * last.height].reshape(last.height, last.line_size)
    used[-1, 0] ^= 128
    last.update(samples.tobytes())
    assert frame_checksum(one) != before
