"""Encoding gives the same bytes on every run and processor, and lossless frames come back bit for bit."""

import ctypes

import numpy as np
import pytest

from lavie.data.media import encode
from lavie.data.media.decode import decode_frames
from lavie.data.media.encode import encode_mp4
from lavie.testing import memory_filled_with
from tests.data.media.frames import drawn_frames


def test_lossless_is_bit_exact_at_odd_sizes():
    source = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_frames(encode_mp4(source, 8, lossless=True), range(5)), source)


# 64 pixels are 4 macroblocks, 160 are 10: both end within the eight that x264's AVX-512 code takes at once.
@pytest.mark.parametrize("size", (64, 160))
@pytest.mark.parametrize("lossless", (False, True))
def test_encoding_gives_the_same_bytes_whatever_memory_holds(size, lossless):
    frames = drawn_frames(size)
    found = set()
    for byte in (1, 85, 128, 170, 254):
        with memory_filled_with(byte):
            found.add(encode_mp4(frames, 12, lossless=lossless))
    assert len(found) == 1


@pytest.mark.parametrize("lossless", (False, True))
def test_encoding_gives_the_same_bytes_without_vector_instructions(lossless, monkeypatch):
    expected = encode_mp4(drawn_frames(64), 12, lossless=lossless)
    for options in (encode.X264, encode.LOSSLESS):
        monkeypatch.setitem(options, "x264-params", f"{options['x264-params']}:asm=0")
    with open("/proc/self/maps") as maps:
        libavutil = ctypes.CDLL(next(line.split()[-1] for line in maps if "libavutil" in line))
    libavutil.av_force_cpu_flags(0)
    try:
        assert encode_mp4(drawn_frames(64), 12, lossless=lossless) == expected
    finally:
        libavutil.av_force_cpu_flags(-1)
