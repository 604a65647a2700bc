"""The scan: values of frames against a calculation with NumPy, bars of padded films, and films that are refused."""

import io
import zlib
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lavie.config.curate_scan import ScanConfig
from lavie.curation.scan.arrays import NAMES, FrameValues
from lavie.curation.scan.film import scan_frames, shown_box
from lavie.curation.scan.stage import work
from lavie.errors import DataError
from lavie.testing import SHARED
from tests.data.media.videos import DEFAULT, NONE, encode, several, with_matrix
from tests.markers import requires_shared

pytest.importorskip("cv2")
CLIPS = SHARED / "assets/videos"


def waves(count: int, height: int = 96, width: int = 160) -> np.ndarray:
    """Return a moving pattern without dark edges: uint8 (count, height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([128 + 90 * np.sin((x + 4 * t) / 9 + y / 7 + p) for p in (0, 2, 4)], -1) for t in range(count)]
    return np.array(frames).astype(np.uint8)


def padded(frames: np.ndarray, above: int, below: int, left: int = 0, right: int = 0) -> np.ndarray:
    return np.pad(frames, ((0, 0), (above, below), (left, right), (0, 0)))


def scanned(data: bytes) -> tuple[np.ndarray, np.ndarray, dict]:
    *parts, facts = scan_frames(io.BytesIO(data))
    return np.concatenate(parts[::2]), np.concatenate(parts[1::2]), facts


def test_values_are_those_of_their_definitions():
    frames = waves(3)
    values = FrameValues()
    first, second = (dict(zip(NAMES, values.measure(frame), strict=True)) for frame in frames[:2])
    grey = frames.astype(float) @ [0.299, 0.587, 0.114]
    assert first["diff"] == first["step"] == first["flow"] == first["flow_p95"] == 0
    assert second["luma"] == pytest.approx(grey[1].mean(), abs=0.5)
    assert second["step"] == pytest.approx(np.abs(grey[1] - grey[0]).mean(), abs=0.5)
    rounded = np.pad(np.rint(grey[1]), 1, mode="reflect")
    inner = rounded[1:-1, 1:-1]
    laplacian = rounded[:-2, 1:-1] + rounded[2:, 1:-1] + rounded[1:-1, :-2] + rounded[1:-1, 2:] - 4 * inner
    assert second["sharp"] == pytest.approx(laplacian.var(), rel=0.02)
    black_white = dict(
        zip(
            NAMES,
            FrameValues().measure(np.repeat(np.uint8([[[0]], [[255]]]), 64, 1).repeat(32, 0).repeat(3, 2)),
            strict=True,
        )
    )
    assert (black_white["dark"], black_white["bright"]) == (0.5, 0.5)


def test_flow_of_a_picture_that_moves_is_its_shift():
    noise = np.random.default_rng(0).normal(size=(144, 300))
    smooth = np.fft.irfft2(
        np.fft.rfft2(noise) * np.exp(-((np.fft.fftfreq(144)[:, None] ** 2 + np.fft.rfftfreq(300) ** 2) / 0.004))
    )
    picture = (128 + 40 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    values = FrameValues()
    values.measure(picture[:, 8:264])
    moved = dict(zip(NAMES, values.measure(picture[:, 5:261]), strict=True))
    assert moved["flow"] == pytest.approx(3 / np.hypot(256, 144), rel=0.1)


@pytest.mark.parametrize("options", ({}, {"crf": "28"}))
def test_bars_of_padded_films_are_exact(options):
    data = encode(padded(waves(12), 22, 20, 12, 12), options=options)
    x, y, width, height = scanned(data)[2]["crop"]
    assert np.abs(np.array([x, y, width, height]) - [12, 22, 160, 96]).max() <= (2 if options else 0)
    assert scanned(encode(waves(12)))[2]["crop"] is None
    assert scanned(encode(padded(waves(12), 30, 0)))[2]["crop"] is None  # one side alone is no pair


def test_bars_of_a_turned_film_are_told_as_shown():
    stored = encode(padded(waves(12), 22, 20))
    facts = scanned(with_matrix(stored, (0, 1, -1, 0)))[2]  # a quarter turn clockwise: above becomes right
    assert (facts["width"], facts["height"]) == (138, 160)
    assert facts["crop"] == [20, 0, 96, 160]
    assert shown_box((2, 3, 4, 5), (10, 20), {"turn": [1, 0, 0, 1], "width": 20, "height": 20}) == [4, 3, 8, 5]


def test_facts_and_times_of_a_film():
    data = several("mp4", ("libx264", (32, 48), 9, NONE), ("libx264", (64, 96), 5, DEFAULT))
    values, stamps, facts = scanned(data)
    assert values.shape == (9, len(NAMES)) and values.dtype == np.float16
    numerator, denominator = facts["time_base"]
    np.testing.assert_allclose(np.diff(stamps[:, 0]) * numerator / denominator, 1 / 8)
    with av.open(io.BytesIO(data)) as container:
        wanted = [(zlib.crc32(frame.to_ndarray().tobytes()), frame.key_frame) for frame in container.decode(video=0)]
    assert [tuple(row) for row in stamps[:, 1:].tolist()] == wanted
    assert (facts["frames"], facts["fps"], facts["vfr"], facts["bit_depth"]) == (9, 8.0, False, 8)
    assert facts["stream"] == 0 and facts["other_streams"] == ["h264 96 x 64"]


def unit_of(tmp_path, films: dict[str, bytes]) -> SimpleNamespace:
    for name, data in films.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    listed = [SimpleNamespace(film=name, bytes=len(data)) for name, data in films.items()]
    return SimpleNamespace(src=tmp_path, films=listed, partial=lambda kind: tmp_path / f"{kind}.npz")


def test_bad_films_are_named_and_the_others_are_as_without_them(tmp_path):
    good = {"cats/a.mp4": encode(waves(20)), "b.mp4": encode(padded(waves(9), 20, 20))}
    webm = encode(waves(40), "libvpx", container="webm", options={"g": "8"})
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"#EXTM3U\n",
        "cut.mp4": good["cats/a.mp4"][:700],
        "cut.webm": webm[: len(webm) // 3],
        "bomb.mp4": encode([np.zeros((16, 16, 3), np.uint8)], size=(8192, 8192), options={"preset": "ultrafast"}),
    }
    alone = work(unit_of(tmp_path / "alone", good), ScanConfig()) if (tmp_path / "alone").mkdir() is None else None
    (tmp_path / "mixed").mkdir()
    mixed = work(unit_of(tmp_path / "mixed", bad | good), ScanConfig())
    assert sorted(item.name for item in mixed.rejected) == sorted(bad)
    assert all(item.reason == "cannot be read" and item.detail for item in mixed.rejected)
    assert mixed.columns == alone.columns and not alone.rejected
    assert mixed.columns["category"] == ["cats", None]
    assert (tmp_path / "mixed/frames.npz").read_bytes() == (tmp_path / "alone/frames.npz").read_bytes()


def test_a_film_cut_short_is_no_shorter_film():
    webm = encode(waves(80), "libvpx", container="webm", options={"g": "8"})
    with pytest.raises(DataError, match=r"cut short|cannot be decoded|damaged"):
        scanned(webm[: len(webm) // 2])


@requires_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, frames, crop",
    (("frog.mp4", None, [8, 0, 704, 480]), ("nasa_13013.mp4", 325, None), ("tears_of_steel.webm", 1691, None)),
)
def test_real_films(name, frames, crop):
    values, _, facts = scanned((CLIPS / name).read_bytes())
    assert facts["crop"] == crop and frames in (None, facts["frames"])
    frozen = (values[1:, NAMES.index("step")] < 0.3).mean()
    assert (frozen > 0.5) == name.startswith("nasa") and (frozen > 0.5 or frozen < 0.1)
