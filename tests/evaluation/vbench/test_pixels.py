import numpy as np
import pytest

from lavie.errors import DataError
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.vbench.pixels import blend, displacements, flickering, motion
from lavie.testing import SHARED
from tests.markers import requires_shared

RACCOON = SHARED / "assets/clips_16f/a_cute_raccoon_playing_guitar_in_the_park_at_sun.gif"


def noise(*shape, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def sliding(step, frames=5, height=64, width=96, seed=0):
    """A texture that moves by `step` (y, x) pixels a frame."""
    margin = frames * max(map(abs, step))
    coarse = noise((height + 2 * margin) // 4 + 1, (width + 2 * margin) // 4 + 1, 3, seed=seed)
    picture = coarse.repeat(4, axis=0).repeat(4, axis=1)
    places = [(margin - i * step[0], margin - i * step[1]) for i in range(frames)]
    return np.stack([picture[y : y + height, x : x + width] for y, x in places])


@requires_shared
def test_the_golden_values_of_the_raccoon():
    (clip,) = find_clips(RACCOON)
    opened = clip.open()
    frames = opened.read(range(opened.frames))
    assert flickering(frames) == pytest.approx(0.970847, abs=1e-5)
    assert blend(frames) == pytest.approx(0.974976, abs=1e-4)
    found = motion(frames)
    assert found.difference == pytest.approx(255 * (1 - 0.970847), abs=1e-2)
    assert 0 < found.displacement < found.displacement_top < 23
    shuffled = frames[np.random.default_rng(0).permutation(len(frames))]
    assert flickering(shuffled) < flickering(frames) and blend(shuffled) < blend(frames)


def test_a_frozen_clip_wins_every_score_and_its_motion_is_zero():
    frames = np.repeat(noise(1, 40, 56, 3), 5, axis=0)
    assert flickering(frames) == 1 == blend(frames)
    found = motion(frames)
    assert (found.difference, found.displacement, found.displacement_top) == (0, 0, 0)


def test_flickering_is_one_less_the_mean_difference_of_neighbours():
    frames = noise(4, 9, 7, 3)
    levels = frames.astype(np.float64)
    assert flickering(frames) == pytest.approx(1 - np.abs(levels[1:] - levels[:-1]).mean() / 255, rel=1e-6)


def test_a_blend_is_the_rounded_mean_of_the_even_frames():
    frames = np.stack([np.full((2, 2, 3), level, dtype=np.uint8) for level in (10, 20, 31, 7, 90, 200)])
    # (10 + 31) / 2 = 20.5 is rounded to 20; (31 + 90) / 2 = 60.5 to 60, 53 from 7. The last frame has no neighbour.
    assert blend(frames) == pytest.approx(1 - (0 + 53) / 2 / 255)


@pytest.mark.parametrize("step", ((0, 1), (2, 0), (-1, 2)))
def test_displacements_are_those_of_a_texture_that_slides(step):
    frames = sliding(step)
    found = displacements(frames)
    # 64 pixels stand for 128 in the search, and are told as 256.
    assert found.shape == (4, 16 * 24)
    assert np.median(found) == pytest.approx(4 * np.hypot(*step), abs=1e-5)
    assert (np.abs(found - 4 * np.hypot(*step)) < 1e-5).mean() > 0.85


def test_noise_and_brightness_are_no_displacement():
    flat = np.clip(128 + np.random.default_rng(0).normal(0, 2, (6, 128, 128, 3)), 0, 255).astype(np.uint8)
    assert motion(flat).difference > 1.5
    assert motion(flat).displacement == pytest.approx(0, abs=0.05)
    brighter = np.stack([np.full((128, 128, 3), 40 * i, dtype=np.uint8) for i in range(5)])
    assert motion(brighter).difference == 40 and motion(brighter).displacement == 0


def test_long_clips_are_searched_in_parts():
    frames = sliding((0, 1), frames=20, height=16, width=16)
    whole = displacements(frames)
    assert whole.shape == (19, 256)
    assert np.array_equal(whole[16:18], displacements(frames[16:19]))


def test_clips_that_are_too_short_are_refused():
    with pytest.raises(DataError, match="1 frames: wanted 2"):
        flickering(noise(1, 8, 8, 3))
    with pytest.raises(DataError, match="2 frames: wanted 3"):
        blend(noise(2, 8, 8, 3))
