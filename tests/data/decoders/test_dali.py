"""DALI on the CPU, the same pipeline as on a GPU, shows the frames that PyAV shows, and fails without harm."""

import dataclasses

import numpy as np
import pytest
import torch

from lavie.data.decoders.clip import EncodedClip, PyAVDecoder
from lavie.data.decoders.dali import TO_BT709, DaliDecoder
from lavie.data.media.clips import clip_indices
from lavie.data.media.encode import encode_mp4
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.decoders.videos import CPU, encode, encoded, requires_dali, sample, shapes
from tests.markers import requires_shared

SCALED = 0.6, 16.0
"""How far pixels may differ after scaling, in levels of 255: on average, and for one value. Bicubic filters of two
libraries differ so much; before scaling, pixels are equal."""


def decode_both(data: bytes, indices, height=None, width=None, crop="cover", u=0.5, v=0.5):
    """Return what PyAV and DALI make of a clip: float (F, 3, H, W) in [0, 255], by default at the source's size."""
    clip = encoded(data, indices, u=u, v=v)
    assert isinstance(clip, EncodedClip), clip
    size = height or clip.height, width or clip.width
    dali = DaliDecoder(len(clip.indices), *size, crop, device=CPU, batch_size=2, num_threads=1)
    (a,), (b,) = PyAVDecoder(*size, crop)([clip]), dali([clip])
    assert a.shape == b.shape and b.dtype == torch.float32
    return (a + 1) * 127.5, (b + 1) * 127.5


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Return the brightness of pixels (..., 3, H, W): (..., H, W)."""
    return (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(-3)


def assert_same(a: torch.Tensor, b: torch.Tensor, scaled: bool = False) -> None:
    """Assert that decodings are equal, or, if they were scaled, as near as SCALED."""
    if scaled:
        assert (a - b).abs().mean() <= SCALED[0]
        assert (a - b).abs().max() <= SCALED[1]
    else:
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)


@requires_dali
@pytest.mark.parametrize("codec", ("libvpx-vp9", "libvpx"))
@pytest.mark.parametrize("size", ((48, 64), (34, 46), (33, 47), (48, 47)))
def test_dali_shows_the_same_frames(codec, size):
    indices = [0, 3, 4, 11, 19]
    a, b = decode_both(encode(shapes(20, *size), codec), indices)
    assert_same(a, b)
    # Levels of neighbours differ by 10: no frame is another.
    assert ((luma(a).mean((1, 2)) - luma(b).mean((1, 2))).abs() < 2).all()


@requires_dali
@pytest.mark.parametrize("gop", (1, 5, 250))
@pytest.mark.parametrize("indices", ([0], [39], [0, 39], [7, 8, 9, 10], [5, 5, 30]))
def test_any_frames_of_long_and_short_groups(gop, indices):
    assert_same(*decode_both(encode(shapes(40), gop=gop), indices))


@requires_dali
@pytest.mark.parametrize("count", (1, 2, 3))
def test_short_files(count):
    assert_same(*decode_both(encode(shapes(count)), range(count)))
    assert_same(*decode_both(encode(shapes(count)), [count - 1]))


@requires_dali
def test_hidden_reference_frames_are_not_counted():
    # With a lag, VP9 packs a hidden frame into the packet of a shown one.
    noise = np.random.default_rng(0).integers(0, 40, (40, 48, 64, 3), dtype=np.uint8) + shapes(40) // 2
    options = {"lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good", "cpu-used": "4"}
    data = encode(noise, gop=100, options=options)
    assert_same(*decode_both(data, [0, 15, 16, 17, 39]))


@requires_dali
@pytest.mark.parametrize("matrix", (1, 2, 5, 6))
def test_colours_follow_the_files_matrix(matrix):
    frames = np.empty((3, 48, 64, 3), np.uint8)
    frames[:, :, :32], frames[:, :, 32:] = (180, 60, 80), (60, 120, 190)
    a, b = decode_both(encode(frames, matrix=matrix, options={"crf": "5", "b": "0"}), [0, 1, 2])
    flat = np.s_[..., 4:-4, [4, 20, 44, 60]]
    truth = torch.from_numpy(frames).permute(0, 3, 1, 2)
    assert (a[flat] - truth[flat]).abs().max() <= 5
    assert (b[flat] - truth[flat]).abs().max() <= 5


def test_the_matrix_keeps_grey():
    np.testing.assert_allclose(TO_BT709 @ np.ones(3), np.ones(3), atol=1e-5)


@pytest.mark.slow
@requires_dali
@pytest.mark.parametrize("crop", ("cover", "patch"))
@pytest.mark.parametrize("u, v", ((0, 0), (0.3, 0.8), (1, 1)))
def test_the_same_part_is_cut_and_scaled(crop, u, v):
    y, x = np.mgrid[:72, :128]
    smooth = np.stack([128 + 100 * np.sin(x / 9 + i) * np.cos(y / 7) for i in range(4)])
    data = encode(np.repeat(smooth[..., None], 3, -1).astype(np.uint8))
    a, b = decode_both(data, [0, 2], 36, 40, crop, u, v)
    assert_same(a, b, scaled=crop == "cover")
    assert (b - a).mean().abs() <= 0.1


@requires_dali
def test_batches_of_any_size_and_mixed_sources_keep_their_order(monkeypatch):
    clips = [encoded(encode(shapes(6 + n, 32 + 2 * n, 48)), [0, 2, 5]) for n in range(5)]
    dali = DaliDecoder(3, 24, 24, device=CPU, batch_size=2, num_threads=1)
    assert [len(g) for g in dali._groups(clips)] == [2, 2, 1]
    expected = PyAVDecoder(24, 24)(clips)
    for count in (5, 1, 3):
        assert ((dali(clips[:count]) - expected[:count]).abs() * 127.5).mean() <= SCALED[0]
    monkeypatch.setattr("lavie.data.decoders.dali.MAX_BYTES", 1)
    assert [len(g) for g in dali._groups(clips)] == [1] * 5


@requires_dali
def test_a_failure_is_a_data_error_and_the_next_call_works():
    data = encode(shapes(8))
    good = encoded(data, [0, 4])
    dali = DaliDecoder(2, 48, 64, device=CPU, batch_size=2, num_threads=1)
    for bad in (
        dataclasses.replace(good, indices=np.array([0, 8])),
        dataclasses.replace(good, data=data[:60]),
        dataclasses.replace(good, data=b""),
        dataclasses.replace(good, data=encode_mp4(shapes(8), 24)),
    ):
        with pytest.raises(DataError, match="DALI: "):
            dali([good, bad])
        assert ((dali([good]) - PyAVDecoder(48, 64)([good])).abs() * 127.5).mean() <= SCALED[0]


@pytest.mark.slow
@requires_dali
@requires_shared
def test_a_real_video():
    data = (SHARED / "assets/videos/tears_of_steel.webm").read_bytes()
    info = sample(data)
    indices = clip_indices(np.arange(info.frames) / info.fps, 8, fps=8, u=0.03)
    assert_same(*decode_both(data, indices, 160, 256), scaled=True)
    assert_same(*decode_both(data, indices))
