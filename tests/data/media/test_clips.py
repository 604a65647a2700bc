"""Clips take the frames that are shown at their times; the fitted picture is the right part of the source."""

import numpy as np
import pytest

from lavie.data.media.clips import clip_indices, cut_scale, feasible_starts, fit, fits
from lavie.errors import DataError


def grid(frames: int, fps: float) -> np.ndarray:
    """Return the times of frames at a constant rate."""
    return np.arange(frames) / fps


@pytest.mark.parametrize(
    "source, wanted, expected",
    (
        (8, 8, [0, 1, 2, 3]),
        (24, 8, [0, 3, 6, 9]),
        (30, 8, [0, 4, 7, 11]),
        (25, 8, [0, 3, 6, 9]),
        (30000 / 1001, 30, [0, 1, 2, 3]),
        (24000 / 1001, 24, [0, 1, 2, 3]),
        (60, 24, [0, 2, 5, 7]),
    ),
)
def test_frames_at_a_rate(source, wanted, expected):
    assert clip_indices(grid(60, source), 4, fps=wanted, u=0).tolist() == expected


def test_every_start_gives_the_same_steps_although_the_rates_tie():
    steps = {tuple(np.diff(clip_indices(grid(300, 30), 16, fps=8, u=u))) for u in np.linspace(0, 0.999, 150)}
    assert len(steps) == 1


def test_clock_rounded_to_milliseconds_makes_no_difference():
    exact, rounded = grid(100, 24), np.round(grid(100, 24), 3)
    for u in np.linspace(0, 0.99, 20):
        np.testing.assert_array_equal(clip_indices(exact, 16, fps=24, u=u), clip_indices(rounded, 16, fps=24, u=u))


def test_variable_rate_goes_by_timestamps():
    times = np.array([0, 0.1, 0.2, 0.3, 0.32, 0.33, 0.34, 0.4, 0.5, 0.6])
    assert clip_indices(times, 7, fps=10, u=0).tolist() == [0, 1, 2, 3, 7, 8, 9]


def test_frames_are_shown_at_their_targets():
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = np.cumsum(rng.uniform(0.01, 0.05, 200))
        times -= times[0]
        interval = times[-1] / (len(times) - 1)
        indices = clip_indices(times, 16, fps=8, u=rng.uniform())
        target = times[indices[0]] + np.arange(16) / 8 + 0.25 * interval + 1e-6
        assert (times[indices[1:]] <= target[1:]).all()
        following = np.append(times, np.inf)[indices + 1]
        assert (following[1:] > target[1:]).all()


@pytest.mark.parametrize("frame_stride, starts", ((1, range(5)), (2, range(2)), (3, range(0))))
def test_all_feasible_starts_by_stride(frame_stride, starts):
    assert feasible_starts(grid(8, 30), 4, frame_stride=frame_stride).tolist() == list(starts)


def test_u_reaches_every_start_evenly():
    first = [clip_indices(grid(20, 8), 16, fps=8, u=u)[0] for u in (np.arange(1000) + 0.5) / 1000]
    values, counts = np.unique(first, return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert (counts == 200).all()


def test_last_frame_is_reached_and_never_passed():
    assert clip_indices(grid(20, 8), 16, fps=8, u=0.999999).tolist() == list(range(4, 20))


@pytest.mark.parametrize(
    "frames, source, wanted, stride, ok",
    (
        (16, 8, 8, None, True),
        (15, 8, 8, None, False),
        (16, 25 / 3, 8, None, True),
        (16, 24, 8, None, False),
        (46, 24, 8, None, True),
        (100, 4, 8, None, False),
        (16, 30, None, 1, True),
        (30, 30, None, 2, False),
        (31, 30, None, 2, True),
    ),
)
def test_what_fits(frames, source, wanted, stride, ok):
    assert fits(frames, source, 16, wanted, stride) is ok
    if not ok:
        with pytest.raises(DataError, match="hold no clip of 16 different frames"):
            clip_indices(grid(frames, source), 16, fps=wanted, frame_stride=stride, u=0.5)


def test_a_single_frame_is_a_clip_of_one():
    assert clip_indices(np.zeros(1), 1, fps=8, u=0.9).tolist() == [0]


def test_a_gap_in_the_timestamps_is_passed_over():
    times = np.concatenate([grid(20, 10), 10 + grid(20, 10)])
    for u in np.linspace(0, 0.99, 30):
        indices = clip_indices(times, 8, fps=10, u=u)
        assert (np.diff(indices) == 1).all()
        assert indices[-1] < 20 or indices[0] >= 20


def test_fit_at_the_same_size_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(frames, 10, 12, 0.3, 0.9), frames)


@pytest.mark.parametrize("u, columns", ((0, slice(0, 10)), (0.5, slice(5, 15)), (1, slice(10, 20))))
def test_fit_cuts_where_asked(u, columns):
    frames = np.random.default_rng(0).integers(0, 256, (2, 10, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(frames, 10, 10, u, 0.5), frames[:, :, columns])
    np.testing.assert_array_equal(fit(frames.swapaxes(1, 2), 10, 10, 0.5, u), frames[:, :, columns].swapaxes(1, 2))


@pytest.mark.parametrize("size", ((32, 32), (20, 64), (64, 20), (100, 130), (7, 5)))
def test_fit_gives_the_size_and_keeps_a_flat_colour(size):
    frames = np.full((2, 45, 60, 3), (10, 100, 200), np.uint8)
    fitted = fit(frames, *size)
    assert fitted.shape == (2, *size, 3)
    assert fitted.dtype == np.uint8
    assert (fitted == (10, 100, 200)).all()


@pytest.mark.parametrize("u, v, left, top", ((0, 0, 0, 0), (0.5, 0.5, 10, 6), (0.47, 0.999, 9, 12), (1, 1, 20, 12)))
def test_a_patch_is_cut_at_the_sources_own_resolution(u, v, left, top):
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 36, 3), dtype=np.uint8)
    patch = fit(frames, 12, 16, u, v, "patch")
    np.testing.assert_array_equal(patch, frames[:, top : top + 12, left : left + 16])
    assert patch.flags.c_contiguous
    assert patch.flags.writeable
    assert not np.shares_memory(patch, frames)


def test_every_place_of_a_patch_is_as_likely():
    row = np.arange(7, dtype=np.uint8)[None, None, :, None].repeat(3, -1)
    places = [int(fit(row, 1, 3, u, 0, "patch")[0, 0, 0, 0]) for u in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(places).tolist() == [200] * 5


def test_a_source_smaller_than_the_patch_is_scaled_to_cover_it():
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 36, 3), dtype=np.uint8)
    assert cut_scale(24, 36, 30, 16, "patch") == 30 / 24
    np.testing.assert_array_equal(fit(frames, 30, 16, 0.3, 0, "patch"), fit(frames, 30, 16, 0.3, 0, "cover"))


def test_cover_scales_down_what_a_patch_leaves():
    assert cut_scale(64, 128, 32, 32) == 0.5
    assert cut_scale(64, 128, 32, 32, "patch") == 1


def test_fit_does_not_alias():
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    frames[:, :, ::2] = 255
    assert abs(fit(frames, 32, 32).astype(int) - 127).max() < 20
