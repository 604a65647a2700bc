"""Residual blocks and resamplers are their definitions in float64; norms pool over a clip, and leave images alone."""

import pytest
import torch

from lavie.models.frames import Frames
from lavie.models.resnet import Downsample, GroupNorm, ResnetBlock, Upsample
from lavie.testing import TOLERANCES, relative_error
from tests.models import by_hand
from tests.models.by_hand import parts, randn, random_weights, whole

B, F, T = 2, 3, 12
EXACT = TOLERANCES[torch.float64]


@pytest.mark.parametrize("images,pooled", ((0, False), (2, False), (2, True)))
@pytest.mark.parametrize("out", (16, 24))
def test_residual_block(out, images, pooled):
    block = random_weights(ResnetBlock(16, out, T, 4))
    x, time = randn(B * (F + images), 16, 3, 4), randn(B, T)
    clips, alone = parts(x, B, F, images)
    for b in range(B):
        if pooled:
            joint = by_hand.resnet_block(block, 4, 1e-5, torch.cat([clips[b], *alone[b]]), time[b])
            clips[b], alone[b] = joint[:F], [image[None] for image in joint[F:]]
        else:
            clips[b] = by_hand.resnet_block(block, 4, 1e-5, clips[b], time[b])
            alone[b] = [by_hand.resnet_block(block, 4, 1e-5, image, time[b]) for image in alone[b]]
    frames = Frames(F, images, pooled)
    assert relative_error(block(x, by_hand.silu(time), frames), whole(clips, alone)) <= EXACT
    split = block(x[:, :10], by_hand.silu(time), frames, x[:, 10:])
    assert relative_error(split, whole(clips, alone)) <= EXACT


def test_norm_is_over_single_frames_unless_told_otherwise():
    norm, x = random_weights(GroupNorm(4, 16, eps=1e-3)), randn(B * F, 16, 3, 4)
    expected = torch.cat(by_hand.group_norm(norm, 4, 1e-3, *x.split(1)))
    assert relative_error(norm(x), expected) <= EXACT
    assert relative_error(norm(x, silu=True), by_hand.silu(expected)) <= EXACT


@pytest.mark.parametrize("size", ((4, 6), (5, 7)))
def test_downsampling_keeps_every_other_position(size):
    layer, x = random_weights(Downsample(8)), randn(2, 8, *size)
    assert relative_error(layer(x), by_hand.spatial_conv(layer.conv, x, stride=2)) <= EXACT


@pytest.mark.parametrize("size", ((4, 6), (3, 5)))
def test_upsampling_repeats_the_nearest_position(size):
    layer, x = random_weights(Upsample(8)), randn(2, 8, 2, 3)
    larger = torch.empty(2, 8, *size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            larger[:, :, i, j] = x[:, :, i * 2 // size[0], j * 3 // size[1]]
    assert relative_error(layer(x, size), by_hand.spatial_conv(layer.conv, larger)) <= EXACT
