"""Temporal convolutions are their definition in float64: loops over frames and taps, clip by clip."""

import pytest
import torch

from lavie.models.frames import Frames
from lavie.models.temporal import TemporalModule, TemporalResnetBlock
from lavie.testing import TOLERANCES, relative_error
from tests.models import by_hand
from tests.models.by_hand import parts, randn, random_weights, whole

B, F, C, T = 2, 4, 64, 12
JOINT = pytest.mark.parametrize("images", (0, 2))
EXACT = TOLERANCES[torch.float64]


@JOINT
@pytest.mark.parametrize("kernels", ((3, 3), (5, 3)))
@pytest.mark.parametrize("timed", (True, False))
def test_residual_block(timed, kernels, images):
    block = random_weights(TemporalResnetBlock(C, kernels, T if timed else None))
    x, time = randn(B * (F + images), C, 2, 3), randn(B, T) if timed else None
    clips, alone = parts(x, B, F, images)
    clips = [by_hand.temporal_block(block, clip, time[b] if timed else None) for b, clip in enumerate(clips)]
    assert (
        relative_error(block(x, Frames(F, images), by_hand.silu(time) if timed else None), whole(clips, alone)) <= EXACT
    )


def test_residual_block_starts_as_the_identity_when_told_to():
    block, x = TemporalResnetBlock(C, (3, 3)), torch.randn(B * F, C, 2, 3)
    assert not torch.equal(block(x, Frames(F, 0)), x)
    assert block.zero_init() is block and torch.equal(block(x, Frames(F, 0)), x)


@JOINT
def test_module(images):
    """x + conv1x1(spatial block(temporal block(x))), the spatial block's statistics over the whole clip."""
    module = random_weights(TemporalModule(C, T))
    x, time = randn(B * (F + images), C, 2, 3), randn(B, T)
    assert module.resblocks_3d_t.conv1.weight.shape[2] == 5 and module.resblocks_3d_t.conv2.weight.shape[2] == 3
    clips, alone = parts(x, B, F, images)
    for b, clip in enumerate(clips):
        h = by_hand.temporal_block(module.resblocks_3d_t, clip, time[b])
        h = by_hand.resnet_block(module.resblocks_3d_s, 32, 1e-6, h, time[b])
        clips[b] = clip + by_hand.spatial_conv(module.shift_conv, h)
    assert relative_error(module(x, by_hand.silu(time), Frames(F, images)), whole(clips, alone)) <= EXACT


def test_module_starts_as_the_identity():
    x = torch.randn(B * F, C, 2, 3)
    assert torch.equal(TemporalModule(C, T)(x, torch.randn(B, T), Frames(F, 0)), x)
