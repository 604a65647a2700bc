"""Every decoder shows the same frames; what DALI cannot show exactly never reaches it; its failures cost no sample."""

import dataclasses
import importlib.util
import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from lavie.data.decoders import choice as decoders
from lavie.data.decoders.choice import choose_backend, disagreement, trial
from lavie.data.decoders.clip import EncodedClip, PyAVDecoder
from lavie.data.decoders.dali import TO_BT709, DaliDecoder
from lavie.data.decoders.dali_rules import clip_for_dali, dali_serves
from lavie.data.media.clips import clip_indices, fit
from lavie.data.media.decode import decode_frames, probe
from lavie.data.media.encode import encode_mp4
from lavie.data.shards.index_file import Sample
from lavie.errors import ConfigError, DataError
from lavie.testing import SHARED
from tests.markers import requires_shared

CPU = torch.device("cpu")
requires_dali = pytest.mark.skipif(decoders.missing_dali() is not None, reason="DALI is not installed")

SCALED = 0.6, 16.0
"""Of 255, on average and for one value, after scaling: bicubic filters of two libraries. Before it they are equal."""


def shapes(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose grey level tells their number, with a red patch and a white bar that moves."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = 20 + 200 * i // count
        frame[:, (3 * i) % (width - 8) :][:, :8] = 255
        frame[:10, :10] = 200, 30, 60
    return frames


def encode(
    frames, codec="libvpx-vp9", container="webm", *, gop=12, matrix=2, times=None, options=None, extra=0
) -> bytes:
    """A video by `codec`: pixels converted by the matrix that its tag names; `times` in ms; `extra` video streams."""
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
    facts = dataclasses.asdict(probe(data))
    known = {field.name: None for field in dataclasses.fields(Sample)}
    known |= {"shard": "0.tar", "key": key, "member": key, "size": len(data)}
    return Sample(**{name: facts.get(name, value) for name, value in known.items()})


def encoded(data: bytes, indices, device="cpu", u=0.5, v=0.5) -> EncodedClip | str:
    return clip_for_dali(sample(data), data, np.array(indices), u, v, device)


def decode_both(data: bytes, indices, height=None, width=None, crop="cover", u=0.5, v=0.5):
    """What PyAV and DALI make of a clip: float (F, 3, H, W) of 0 to 255, by default at the size of the source."""
    clip = encoded(data, indices, u=u, v=v)
    assert isinstance(clip, EncodedClip), clip
    size = height or clip.height, width or clip.width
    dali = DaliDecoder(len(clip.indices), *size, crop, device=CPU, batch_size=2, num_threads=1)
    (a,), (b,) = PyAVDecoder(*size, crop)([clip]), dali([clip])
    assert a.shape == b.shape and b.dtype == torch.float32
    return (a + 1) * 127.5, (b + 1) * 127.5


def luma(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(-3)


def assert_same(a: torch.Tensor, b: torch.Tensor, scaled: bool = False) -> None:
    if scaled:
        assert (a - b).abs().mean() <= SCALED[0]
        assert (a - b).abs().max() <= SCALED[1]
    else:
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)


# --- the reference


def test_pyav_is_what_the_loader_makes():
    data = encode_mp4(shapes(12), 24)
    clip = EncodedClip("clip", data, np.array([1, 4, 7]), 48, 64, False, 0.2, 0.9)
    (pixels,) = PyAVDecoder(24, 24, "cover")([clip])
    expected = fit(decode_frames(data, [1, 4, 7]), 24, 24, 0.2, 0.9)
    torch.testing.assert_close(pixels, torch.from_numpy(expected).permute(0, 3, 1, 2) / 127.5 - 1, rtol=0, atol=0)
    assert pixels.min() >= -1 and pixels.max() <= 1


# --- DALI on the CPU, the same graph as on a GPU


@requires_dali
@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
@pytest.mark.parametrize("size", [(48, 64), (34, 46), (33, 47), (48, 47)])
def test_dali_shows_the_same_frames(codec, size):
    indices = [0, 3, 4, 11, 19]
    a, b = decode_both(encode(shapes(20, *size), codec), indices)
    assert_same(a, b)
    # Levels of neighbours differ by 10: no frame is another.
    assert ((luma(a).mean((1, 2)) - luma(b).mean((1, 2))).abs() < 2).all()


@requires_dali
@pytest.mark.parametrize("gop", [1, 5, 250])
@pytest.mark.parametrize("indices", [[0], [39], [0, 39], [7, 8, 9, 10], [5, 5, 30]])
def test_any_frames_of_long_and_short_groups(gop, indices):
    assert_same(*decode_both(encode(shapes(40), gop=gop), indices))


@requires_dali
@pytest.mark.parametrize("count", [1, 2, 3])
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
@pytest.mark.parametrize("matrix", [1, 2, 5, 6])
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


@requires_dali
@pytest.mark.parametrize("crop", ["cover", "patch"])
@pytest.mark.parametrize(("u", "v"), [(0, 0), (0.3, 0.8), (1, 1)])
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


@requires_dali
@requires_shared
def test_a_real_video():
    data = (SHARED / "assets/videos/tears_of_steel.webm").read_bytes()
    info = sample(data)
    indices = clip_indices(np.arange(info.frames) / info.fps, 8, fps=8, u=0.03)
    assert_same(*decode_both(data, indices, 160, 256), scaled=True)
    assert_same(*decode_both(data, indices))


# --- what DALI is kept from


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
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
    ],
)
def test_the_index_decides_first(changes, reason):
    plain = dataclasses.replace(sample(encode_mp4(shapes(2), 8)), width=1280, height=720, size=1 << 20)
    found = dali_serves(dataclasses.replace(plain, **changes), "gpu")
    assert found is None if reason is None else reason in found


def turned(data: bytes) -> bytes:
    data = bytearray(data)
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", -65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)
    return bytes(data)


def announced(data: bytes, width: int) -> bytes:
    """A video of 64 x 48 or 160 x 144 pixels whose container says that its width is another."""
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
    ("data", "device", "reason"),
    [
        (announced(encode(shapes(4)), 80), "cpu", "announces 80 x 48"),
        (announced(encode_mp4(shapes(4, 144, 160), 24), 176), "gpu", "announces 176 x 144"),
        (encode_mp4(shapes(4), 24), "cpu", "does not decode h264 on the CPU"),
        (encode(shapes(4), times=[0, 40, 90, 300]), "cpu", "varies"),
        (encode(shapes(4), extra=1), "cpu", "several video streams"),
        (encode(shapes(4), matrix=9), "cpu", "colour matrix is number 9"),
        (turned(encode_mp4(shapes(4, 144, 160), 24)), "gpu", "turned upright"),
        (encode_mp4(shapes(4, 144, 160), 24, lossless=True), "gpu", "not 8-bit 4:2:0"),
    ],
)
def test_files_that_are_not_plain(data, device, reason):
    found = encoded(data, [0, 1], device)
    assert isinstance(found, str) and reason in found


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
        try:
            clip_for_dali(info, bad, np.array([0, 5]), 0, 0, "cpu")
        except DataError:
            pass


# --- the choice


@pytest.mark.parametrize(
    ("wanted", "device", "faults", "expected", "why"),
    [
        ("auto", "cpu", {}, "pyav", "no GPU"),
        ("auto", "cuda", {}, "dali-gpu", "a GPU with a video decoder"),
        ("auto", "cuda", {"missing_dali": "not installed"}, "pyav", "not installed"),
        ("auto", "cuda", {"missing_nvdec": "no libnvcuvid"}, "pyav", "no libnvcuvid"),
        ("auto", "cuda", {"differs": "it fails on a test clip"}, "pyav", "fails on a test clip"),
        ("auto", "cuda", {"degraded": True}, "pyav", "low resolution"),
        ("auto", "cuda", {"verified": False}, "pyav", "data.verify is not always"),
        ("pyav", "cuda", {}, "pyav", "asked for"),
        ("pyav", "cpu", {"degraded": True, "verified": False}, "pyav", "asked for"),
        ("dali", "cuda", {}, "dali-gpu", "asked for"),
        ("dali", "cpu", {"missing_nvdec": "no libnvcuvid"}, "dali-cpu", "VP8 and VP9"),
        ("dali", "cpu", {"missing_dali": "not installed"}, None, "not installed"),
        ("dali", "cpu", {"verified": False}, None, "data.verify is not always"),
        ("dali", "cuda", {"missing_nvdec": "no libnvcuvid"}, None, "no libnvcuvid"),
        ("dali", "cuda", {"differs": "it fails on a test clip"}, None, "fails on a test clip"),
        ("dali", "cuda", {"degraded": True}, None, "low resolution"),
    ],
)
def test_choice(monkeypatch, wanted, device, faults, expected, why):
    monkeypatch.setattr(decoders, "missing_dali", lambda: faults.get("missing_dali"))
    monkeypatch.setattr(decoders, "_missing_nvdec", lambda: faults.get("missing_nvdec"))
    monkeypatch.setattr(decoders, "trial", lambda device: faults.get("differs"))
    flags = {name: value for name, value in faults.items() if isinstance(value, bool)}
    if expected is None:
        with pytest.raises(ConfigError, match=f"data.decoder is dali: .*{why}.*Set data.decoder to auto or pyav"):
            choose_backend(wanted, torch.device(device), **flags)
    else:
        backend, reason = choose_backend(wanted, torch.device(device), **flags)
        assert backend == expected and why in reason


@requires_dali
def test_the_trial_finds_a_decoder_that_fails_or_differs(monkeypatch):
    assert trial(CPU) is None
    call = DaliDecoder.__call__
    monkeypatch.setattr(DaliDecoder, "__call__", lambda self, clips: call(self, clips) - 0.1)
    assert "on a test clip, pixels differ by 1" in trial(CPU)
    monkeypatch.setattr("lavie.data.decoders.choice.encode_vp9", encode_mp4)
    assert "fails on a test clip: DALI" in trial(CPU)


@pytest.mark.parametrize(("mean", "edge", "same"), [(2.4, 47, True), (2.6, 2.6, False), (0.1, 49, False)])
def test_disagreement_is_by_the_mean_and_by_the_largest(mean, edge, same):
    a = torch.zeros(2, 3, 64, 64)
    b = torch.full_like(a, mean / 127.5)
    b[0, 0, 0, 0] = edge / 127.5
    fault = disagreement(a, b)
    assert fault is None if same else f"by {mean:.1f} of 255 on average and {edge:.0f} at most" in fault


def test_missing_libraries_are_named(monkeypatch):
    def none(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", none)
    assert "lavie[dali]" in decoders.missing_dali()
    monkeypatch.setattr(decoders.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert "libnvcuvid.so.1" in decoders._missing_nvdec()
