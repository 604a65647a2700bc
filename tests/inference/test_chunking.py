"""Windows cover an axis, their weights sum to one, and blending leaves pointwise functions alone and no seams."""

import itertools

import pytest
import torch

from lavie.errors import ConfigError
from lavie.inference.chunking import Axis, scaled, whole, windowed, within

CASES = [Axis(*sizes) for sizes in [(61, 8, 2), (61, 8, 5), (97, 61, 13, 4), (9, 8, 7), (40, 16, 0, 4), (77, 32, 8, 8)]]
STEPS = range(50)


@pytest.mark.parametrize("axis", (*CASES, Axis(7, 8, 2)))
def test_windows_cover_the_axis(axis):
    for step in STEPS:
        cuts = axis.windows(step)
        assert cuts[0].start == 0
        assert cuts[-1].stop == axis.length
        assert len(cuts) <= axis.count
        for before, after in itertools.pairwise(cuts):
            assert before.start < after.start <= before.stop - axis.overlap
        assert all(cut.start % axis.multiple == 0 and cut.stop - cut.start <= axis.window for cut in cuts)
        assert all(cut.stop - cut.start == axis.window for cut in cuts[:-1])
        assert cuts[-1].stop - cuts[-1].start > axis.window - axis.multiple


@pytest.mark.parametrize("axis", CASES)
def test_the_first_step_takes_the_fewest_windows_and_no_step_many_more(axis):
    fewest = -(-(axis.length - (axis.size - axis.reach)) // axis.reach)
    counts = [len(axis.windows(step)) for step in STEPS]
    assert counts[0] == fewest <= min(counts)
    assert max(counts) == axis.count <= fewest + 1


@pytest.mark.parametrize("scale", (1, 4))
@pytest.mark.parametrize("axis", CASES)
def test_weights_sum_to_one_and_rise_smoothly(axis, scale):
    for step in STEPS[:10]:
        total = torch.zeros(axis.length * scale)
        for cut, ramp in zip(axis.windows(step), axis.weights(step, scale), strict=True):
            assert ramp.min() >= 0
            total[cut.start * scale : cut.stop * scale] += ramp
            if axis.overlap:
                steepest = float(ramp.diff().abs().max()) if len(ramp) > 1 else 0
                assert steepest <= 2 / (axis.overlap * scale)  # sin^2 over n places rises by at most pi / 2 / n
        assert float((total - 1).abs().max()) <= 1e-6


@pytest.mark.parametrize("axis", (Axis(61, 8, 2), Axis(97, 33, 9, 4), Axis(160, 64, 16, 8)))
def test_every_place_is_blended_equally_often(axis):
    mixed = torch.full((axis.length,), float(len(STEPS)))
    for step in STEPS:
        for cut, ramp in zip(axis.windows(step), axis.weights(step), strict=True):
            mixed[cut] -= ramp.square()  # 1 - sum of squares: 0 where one window speaks, 1/2 where two do alike
    width = axis.size - axis.reach
    inside = mixed[width:-width]  # beyond there is no room for a whole overlap
    assert float((inside / inside.mean() - 1).abs().max()) <= 0.2


@pytest.mark.parametrize("size, overlap, multiple", ((8, 8, 1), (8, 9, 1), (8, 6, 4), (8, -1, 1), (0, 0, 1)))
def test_refuses_windows_that_do_not_advance(size, overlap, multiple):
    with pytest.raises(ConfigError, match=f"tile: got windows of {size} that overlap by {overlap}"):
        Axis(20, size, overlap, multiple, "tile")


def test_windows_of_a_pointwise_denoiser_are_the_whole():
    x = torch.randn(2, 3, 13, 21, 30, generator=torch.Generator().manual_seed(0))
    axes = [Axis(13, 5, 2), Axis(21, 8, 3), Axis(30, 16, 4, 4)]
    for step in range(8):
        y = windowed(lambda place: 0.7 * within(x, place) - 0.2, axes, step=step)
        assert float((y - (0.7 * x - 0.2)).abs().max()) <= 1e-6


def test_windows_of_a_pointwise_decoder_are_the_whole():
    x = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    axes = [Axis(20, 8, 3), Axis(30, 16, 4)]
    y = windowed(lambda place: within(x, place).repeat_interleave(2, -2).repeat_interleave(3, -1), axes, scales=(2, 3))
    assert float((y - x.repeat_interleave(2, -2).repeat_interleave(3, -1)).abs().max()) <= 1e-6


def test_one_window_is_untouched():
    x = torch.randn(1, 2, 5)
    assert windowed(lambda place: within(x, place), whole([5]), step=3).data_ptr() == x.data_ptr()


def test_scaled():
    assert scaled((slice(1, 3), slice(0, 2)), (4, 1)) == (slice(4, 12), slice(0, 2))
