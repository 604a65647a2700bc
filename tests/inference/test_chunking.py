"""Windows cover an axis, their weights sum to one, and blending leaves pointwise functions alone and no seams."""

import itertools

import pytest
import torch

from lavie.errors import ConfigError
from lavie.inference.chunking import scaled, weights, windowed, windows, within
from lavie.models.unet import VideoUNet
from lavie.testing import TOLERANCES, relative_error, tiny_unet

CASES = [(61, 8, 2, 1), (61, 8, 4, 1), (97, 61, 13, 4), (9, 8, 7, 1), (40, 16, 0, 4), (77, 32, 8, 8), (7, 8, 2, 1)]


@pytest.mark.parametrize("length, size, overlap, multiple", CASES)
def test_windows_cover_the_axis(length, size, overlap, multiple):
    cuts = windows(length, size, overlap, multiple=multiple)
    assert cuts[0].start == 0 and cuts[-1].stop == length
    for before, after in itertools.pairwise(cuts):
        assert before.start < after.start <= before.stop - overlap
    assert all(cut.start % multiple == 0 and cut.stop - cut.start <= size for cut in cuts)
    assert all(cut.stop - cut.start == size for cut in cuts[:-1])
    if multiple == 1 and length > size:
        assert len(cuts) == -(-(length - overlap) // (size - overlap))


@pytest.mark.parametrize("scale", (1, 4))
@pytest.mark.parametrize("length, size, overlap, multiple", CASES)
def test_weights_sum_to_one_and_rise_smoothly(length, size, overlap, multiple, scale):
    cuts = windows(length, size, overlap, multiple=multiple)
    total = torch.zeros(length * scale)
    for cut, ramp in zip(cuts, weights(cuts, scale), strict=True):
        assert ramp.min() >= 0
        total[cut.start * scale : cut.stop * scale] += ramp
        if overlap:
            steepest = float(ramp.diff().abs().max()) if len(ramp) > 1 else 0
            assert steepest <= 2 / (overlap * scale)  # sin^2 over n places rises by at most pi / 2 / n
    assert float((total - 1).abs().max()) <= 1e-6


@pytest.mark.parametrize("size, overlap, multiple", [(8, 8, 1), (8, 9, 1), (8, 6, 4), (8, -1, 1), (0, 0, 1)])
def test_refuses_windows_that_do_not_advance(size, overlap, multiple):
    with pytest.raises(ConfigError, match=f"tile: got windows of {size} that overlap by {overlap}"):
        windows(20, size, overlap, multiple=multiple, name="tile")


def test_windows_of_a_pointwise_denoiser_are_the_whole():
    x = torch.randn(2, 3, 13, 21, 30, generator=torch.Generator().manual_seed(0))
    axes = [windows(13, 5, 2), windows(21, 8, 3), windows(30, 16, 4, multiple=4)]
    assert all(len(cuts) > 1 for cuts in axes)
    y = windowed(lambda place: 0.7 * within(x, place) - 0.2, axes)
    assert float((y - (0.7 * x - 0.2)).abs().max()) <= 1e-6


def test_windows_of_a_pointwise_decoder_are_the_whole():
    x = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    axes = [windows(20, 8, 3), windows(30, 16, 4)]
    y = windowed(lambda place: within(x, place).repeat_interleave(2, -2).repeat_interleave(3, -1), axes, scales=(2, 3))
    assert float((y - x.repeat_interleave(2, -2).repeat_interleave(3, -1)).abs().max()) <= 1e-6


def test_one_window_is_untouched():
    x = torch.randn(1, 2, 5)
    assert windowed(lambda place: within(x, place), [[slice(0, 5)]]).data_ptr() == x.data_ptr()


def test_scaled():
    assert scaled((slice(1, 3), slice(0, 2)), (4, 1)) == (slice(4, 12), slice(0, 2))


# --- seams


def seam_energy(y, whole, cuts, dim):
    """Mean squared difference of neighbours where windows meet over that elsewhere, relative to the undivided output's
    own ratio at the same places, minus 1."""

    def ratio(t):
        energy = t.diff(dim=dim).square().mean([d for d in range(t.dim()) if d != dim])
        return float(energy[seam].mean() / energy[~seam].mean())

    seam = torch.zeros(cuts[-1].stop - 1, dtype=torch.bool)
    for before, after in itertools.pairwise(cuts):
        seam[after.start - 1 : before.stop] = True
    return ratio(y) / ratio(whole) - 1


MODELS = {
    "interpolation": dict(
        in_channels=8,
        spatial_attention="first_and_previous",
        temporal_order="after_feed_forward",
        rotary_dim=0,
        relative_bias=False,
    ),
    "vsr": dict(
        in_channels=7,
        cross_attention=(True, False),
        only_cross_attention=(True, False),
        linear_projection=True,
        num_noise_levels=20,
        temporal_convolutions=True,
    ),
}
SEAMS = [
    ("vsr", 0, 2, (20, 12, 12), windows(20, 8, 2)),
    ("vsr", 0, 4, (2, 12, 80), windows(80, 48, 16, multiple=2)),
    ("interpolation", 0.1, 2, (97, 6, 6), windows(97, 61, 13, multiple=4)),
]
"""Stage, standard deviation of the weights that start at zero, axis, latents, windows: the default overlaps, tiles
scaled down. Super-resolution has its temporal parts as a new run begins with them: large random ones reach over a whole
window of 8 frames, so that every frame feels the window's edge (12 % less energy there, however windows are blended).
"""


@torch.no_grad()
@pytest.mark.parametrize("stage, std, dim, shape, cuts", SEAMS, ids=("vsr time", "vsr space", "interpolation time"))
def test_random_weights_leave_no_seam(stage, std, dim, shape, cuts):
    torch.manual_seed(0)
    network = VideoUNet(tiny_unet(**MODELS[stage])).eval()
    for parameter in network.parameters():
        if std and not parameter.any():
            parameter.normal_(std=std)
    x, text = torch.randn(1, network.config.in_channels, *shape), torch.randn(1, 5, 24)
    level = torch.tensor([5]) if network.config.num_noise_levels else None

    def predict(place):
        return network(within(x, place), torch.tensor([500]), text, noise_level=level)

    axes = [[slice(0, length)] for length in shape]
    whole = windowed(predict, axes)
    axes[dim - 2] = cuts
    y = windowed(predict, axes)
    assert relative_error(y, whole) > TOLERANCES[torch.float32]  # the windows do see less
    assert abs(seam_energy(y, whole, cuts, dim)) <= 0.01
