"""Clips that DALI cannot show exactly never reach it."""

import contextlib
import dataclasses
import struct
from fractions import Fraction

import numpy as np
import pytest

from lavie.data.decoders.clip import EncodedClip
from lavie.data.decoders.dali import DaliDecoder
from lavie.data.decoders.dali_rules import clip_for_dali, dali_serves
from lavie.data.media.encode import encode_mp4
from lavie.errors import DataError
from tests.data.decoders.videos import CPU, encode, encoded, sample, shapes
from tests.data.media.videos import encode as media
from tests.data.media.videos import with_clap, with_matrix

SEE_THROUGH = np.full((4, 48, 64, 4), 90, np.uint8)


@pytest.mark.parametrize(
    "changes, reason",
    (
        ({}, None),
        ({"codec": "vp9", "width": 4096, "height": 144}, None),
        ({"kind": "image"}, "not a video"),
        ({"codec": "av1"}, "does not decode av1 on the GPU"),
        ({"vfr": True}, "varies"),
        ({"fps": None}, "varies"),
        ({"width": 142}, "shorter than 144"),
        ({"height": 4098}, "longer than 4096"),
        ({"width": 1279}, "odd number"),
        ({"size": (64 << 20) + 1}, "larger than 64 MiB"),
    ),
)
def test_the_index_decides_first(changes, reason):
    plain = dataclasses.replace(sample(encode_mp4(shapes(2), 8)), width=1280, height=720, size=1 << 20)
    found = dali_serves(dataclasses.replace(plain, **changes), "gpu")
    assert found is None if reason is None else reason in found


def announced(data: bytes, width: int) -> bytes:
    """Return a video, WebM of 64 x 48 or MP4 of 160 x 144 pixels, whose header says that it has another width."""
    data = bytearray(data)
    if data[4:8] == b"ftyp":
        place = data.index(b"avc1", data.index(b"stsd")) + 28
        assert data[place : place + 4] == struct.pack(">2H", 160, 144)
        data[place : place + 2] = struct.pack(">H", width)
    else:
        place = data.index(b"\xb0\x81\x40\xba\x81\x30")  # PixelWidth and PixelHeight of Matroska
        data[place + 2] = width
    return bytes(data)


@pytest.mark.parametrize(
    "data, device, reason",
    (
        (announced(encode(shapes(4)), 80), "cpu", "announces 80 x 48"),
        (announced(encode_mp4(shapes(4, 144, 160), 24), 176), "gpu", "announces 176 x 144"),
        (encode_mp4(shapes(4), 24), "cpu", "does not decode h264 on the CPU"),
        (encode(shapes(4), times=[0, 40, 90, 300]), "cpu", "varies"),
        (encode(shapes(4), extra=1), "cpu", "several video streams"),
        (encode(shapes(4), matrix=9), "cpu", "colour matrix is number 9"),
        (with_matrix(encode_mp4(shapes(4, 144, 160), 24), (-1, 0, 0, -1)), "gpu", "turned upright"),
        (with_matrix(encode_mp4(shapes(4, 144, 160), 24), (-1, 0, 0, 1)), "gpu", "turned upright"),
        (media(shapes(4, 144, 160), tags={"sample_aspect_ratio": Fraction(64, 45)}), "gpu", "pixels are not square"),
        (media(shapes(4, 144, 160), tags={"color_trc": 18, "colorspace": 9}), "gpu", "dynamic range is high"),
        (media(SEE_THROUGH, "libvpx-vp9", "yuva420p", source="rgba", container="webm"), "cpu", "it is transparent"),
        (with_clap(media(shapes(4, 160, 176)), 160, 144, Fraction(0), Fraction(0)), "gpu", "its container crops it"),
        (encode_mp4(shapes(4, 144, 160), 24, lossless=True), "gpu", "not 8-bit 4:2:0"),
    ),
)
def test_files_that_are_not_plain(data, device, reason):
    found = encoded(data, [0, 1], device)
    assert isinstance(found, str) and reason in found


def test_a_matrix_that_is_not_named_is_guessed_as_for_pyav():
    """An HD file is taken as BT.709, though DALI itself converts by BT.601."""
    for height, width, named, bt709 in (
        (144, 1280, {}, True),
        (144, 160, {}, False),
        (592, 160, {}, True),
        (144, 1280, {"colorspace": 6}, False),
        (144, 160, {"colorspace": 1}, True),
    ):
        clip = encoded(media(shapes(2, height, width), tags=named), [0, 1], "gpu")
        assert isinstance(clip, EncodedClip) and clip.bt709 == bt709


def test_plain_h264_with_b_frames_goes_to_the_gpu():
    assert isinstance(encoded(encode_mp4(shapes(20, 144, 160), 24), [0, 9, 19], "gpu"), EncodedClip)


def test_a_file_whose_packets_are_not_its_frames():
    data = encode(shapes(6))
    more = dataclasses.replace(sample(data), frames=7)
    assert "not every packet" in clip_for_dali(more, data, np.array([0]), 0, 0, "cpu")
    other = dataclasses.replace(sample(data), width=60)
    assert "the size that the index says" in clip_for_dali(other, data, np.array([0]), 0, 0, "cpu")


def test_every_truncation_and_mutation_is_found_by_the_check_or_opens():
    """The check itself never crashes; DALI sees only what passed it."""
    data = encode(shapes(6))
    info, rng = sample(data), np.random.default_rng(0)
    damaged = [data[:end] for end in range(0, len(data), 41)]
    for _ in range(100):
        mutant = bytearray(data)
        mutant[rng.integers(len(data))] ^= 1 << rng.integers(8)
        damaged.append(bytes(mutant))
    for bad in damaged:
        with contextlib.suppress(DataError):
            clip_for_dali(info, bad, np.array([0, 5]), 0, 0, "cpu")


@pytest.mark.parametrize(
    "most_bytes, most_clips, sizes",
    (
        (72_000, 8, [2, 2, 1]),  # two clips of 36,000 bytes fill a run to the last byte
        (71_999, 8, [1, 1, 1, 1, 1]),
        (72_001, 8, [2, 2, 1]),
        (1, 8, [1, 1, 1, 1, 1]),  # a clip larger than a run has one for itself
        (1 << 30, 2, [2, 2, 1]),
        (1 << 30, 5, [5]),
        (108_000, 2, [2, 2, 1]),
    ),
)
def test_runs_have_bounds(monkeypatch, most_bytes, most_clips, sizes):
    """Clips of 4 frames of 60 x 50 or of 50 x 60 pixels: each run has as many as its two bounds allow."""
    monkeypatch.setattr("lavie.data.decoders.dali.MAX_BYTES", most_bytes)
    clips = [EncodedClip(str(n), b"", np.arange(4), 50 + n % 2 * 10, 60 - n % 2 * 10, False, 0, 0) for n in range(5)]
    groups = DaliDecoder(4, 24, 24, device=CPU, batch_size=most_clips)._groups(clips)
    assert [len(group) for group in groups] == sizes
    assert [clip for group in groups for clip in group] == clips
