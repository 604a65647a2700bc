"""HDR becomes what method C of ITU-R BT.2446-1 says, computed here from the primaries in float64."""

import numpy as np
import pytest

from lavie.data.media.decode import decode_frames, probe
from tests.data.media.videos import encode, yuv

WHITE_POINT = (0.3127, 0.3290)


def to_xyz(primaries) -> np.ndarray:
    """Return linear R, G, B to CIE X, Y, Z for primaries given as (x, y) and D65."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*primaries, WHITE_POINT)])
    return columns[:3].T * np.linalg.solve(columns[:3].T, columns[3])


BT2020 = to_xyz(((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)))
TO_BT709 = np.linalg.inv(to_xyz(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))) @ BT2020


def pq(light: np.ndarray) -> np.ndarray:
    """Return the signal of display light in cd/m2 (SMPTE ST 2084)."""
    power = (np.maximum(light, 0) / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """Return the signal of the light of a display of 1000 cd/m2 (ARIB STD-B67 with BT.2100's OOTF)."""
    luminance = np.maximum(light @ BT2020[1], 1e-9)[:, None] / 1000
    scene = np.maximum(light, 0) / 1000 * luminance ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def standard(light: np.ndarray) -> np.ndarray:
    """Return the SDR levels of display light of BT.2020 in cd/m2."""
    luminance = light @ BT2020[1]
    bend = 58.5 / 0.83802
    high = 15.09968 * np.log(np.maximum(luminance / bend - 0.74204, 1e-9)) + 78.99439
    mapped = np.where(luminance < bend, 0.83802 * luminance, high)
    return 255 * np.clip((light * (mapped / luminance / 100)[:, None]) @ TO_BT709.T, 0, 1) ** (1 / 2.4)


def shown(signal: np.ndarray, transfer: int, **tags) -> tuple[bytes, np.ndarray]:
    """Return a file of patches of a signal, and the patches as decoded."""
    tags = {"colorspace": 9, "color_primaries": 9, "color_range": 1, "color_trc": transfer} | tags
    packed = yuv(signal, 10, (0.2627, 0.0593))
    options = {"qp": "0"}
    data = encode(
        [packed] * 2,
        format="yuv420p10le",
        source="yuv420p10le",
        size=(16, 16 * len(signal)),
        options=options,
        tags=tags,
    )
    return data, decode_frames(data, [1])[0, 8, 8::16].astype(float)


@pytest.mark.parametrize("name, transfer, curve", (("PQ", 16, pq), ("HLG", 18, hlg)))
def test_light_is_mapped_by_method_c(name, transfer, curve):
    light = 203 * np.random.default_rng(0).uniform(0.2, 0.9, (24, 3)) ** 2.4 @ np.linalg.inv(TO_BT709).T
    data, found = shown(curve(light), transfer)
    difference = np.abs(found - standard(light))
    # Signals of 10 bits are coarse; BT.709's primaries make the most of their steps where a colour is strong.
    assert difference.mean() < 0.8 and difference.max() < 4
    assert any(note.startswith(f"high dynamic range: {name}") for note in probe(data).notes)


@pytest.mark.parametrize("transfer, curve", ((16, pq), (18, hlg)))
def test_white_paper_is_white_and_greys_ascend(transfer, curve):
    nits = np.array([0.01, 1, 10, 26, 100, 203, 300, 400, 1000])
    _, found = shown(curve(np.repeat(nits[:, None], 3, 1)), transfer)
    assert (np.ptp(found, axis=1) <= 1).all()
    assert (np.diff(found[:7, 0]) > 0).all() and (found[7:] == 255).all()
    assert found[5, 0] == pytest.approx(245, abs=1) and found[0, 0] < 8
    np.testing.assert_allclose(found, standard(np.repeat(nits[:, None], 3, 1)), atol=1.6)


@pytest.mark.parametrize("transfer", (1, 6, 14, 15))
def test_standard_range_of_bt2020_stays_exact(transfer):
    colours = np.random.default_rng(1).uniform(0, 1, (12, 3))
    _, found = shown(colours, transfer)
    np.testing.assert_allclose(found, 255 * colours, atol=1)
