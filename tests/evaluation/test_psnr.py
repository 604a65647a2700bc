"""The ratio by its formula, and baselines on clips whose every frame is known."""

import numpy as np
import pytest

from lavie.evaluation.psnr import bicubic, blend, psnr, repeat


def ramp(values):
    """Frames of one grey value each."""
    return np.tile(np.array(values, np.uint8)[:, None, None, None], (1, 4, 6, 3))


def test_psnr():
    truth = ramp([10, 20])
    assert psnr(ramp([15, 25]), truth) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(ramp([10, 30]), truth) == pytest.approx(10 * np.log10(255**2 / 50))
    assert psnr(truth, truth) == float("inf")
    with pytest.raises(ValueError, match="wanted one shape"):
        psnr(truth, truth[:1])


def test_repeat_shows_the_nearest_key_frame():
    assert repeat(ramp([0, 40, 80]), 4)[:, 0, 0, 0].tolist() == [0, 0, 0, 40, 40, 40, 40, 80, 80]


def test_blend_is_linear_and_keeps_the_key_frames():
    assert blend(ramp([0, 40, 80]), 4)[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_bicubic():
    frames = ramp([7, 200])
    assert np.array_equal(bicubic(frames, 4), ramp([7, 200]).repeat(4, 1).repeat(4, 2))
