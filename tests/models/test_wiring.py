"""The whole networks are their levels in order: each layer, its skip connection, its temporal module, in float64.

The layers themselves are held to their definitions by the tests of attention, resnet and temporal.
"""

import math

import pytest
import torch

from lavie.models.frames import Frames
from lavie.models.unet import VideoUNet
from lavie.testing import TOLERANCES, relative_error, tiny_unet
from tests.models import by_hand
from tests.models.by_hand import parts, randn, random_weights, whole
from tests.models.networks import tiny_interpolation, tiny_vsr

NETWORKS = {
    "base": tiny_unet(
        block_out_channels=(16, 32, 32), cross_attention=(True, True, False), layers_per_block=2, rotary_dim=8
    ),
    "pooled": tiny_unet(rotary_dim=16, norm_statistics="pooled"),
    "interpolation": tiny_interpolation(),
    "vsr": tiny_vsr(),
}


def network_by_hand(network, sample, timestep, text, level, frames):
    """Apply the layers of a network to a sample of (B, C, F, H, W) in the order of the paper's figures."""
    config = network.config
    width, batch = config.block_out_channels[0], len(sample)

    # The sinusoid: cosines, then sines, of angles t * 10000 ** (-i / half).
    rates = torch.tensor([10000.0 ** (-i / (width // 2)) for i in range(width // 2)])
    angles = timestep[:, None] * rates.float()
    time = torch.cat([angles.cos(), angles.sin()], 1).double()
    time = by_hand.linear(network.time_embedding.linear_1, time)
    time = by_hand.linear(network.time_embedding.linear_2, by_hand.silu(time))
    if level is not None:
        time = time + network.class_embedding.weight[level]
    time = by_hand.silu(time)  # once, for every block reads it so

    rows = [sample[b, :, f] for b in range(batch) for f in range(frames.video)]
    rows += [sample[b, :, frames.video + i] for b in range(batch) for i in range(frames.images)]
    x = by_hand.spatial_conv(network.conv_in, torch.stack(rows))
    skips = [x]
    for i, block in enumerate(network.down_blocks):
        for j in range(config.layers_per_block):
            x = block.resnets[j](x, time, frames)
            if config.cross_attention[i]:
                x = block.attentions[j](x, text, frames)
            skips.append(x)
        if i < len(network.down_blocks) - 1:
            x = by_hand.spatial_conv(block.downsamplers[0].conv, x, stride=2)
            skips.append(x)
        if config.temporal_convolutions:
            x = network.down_temporal_blocks[i](x, time, frames)

    x = network.mid_block.resnets[0](x, time, frames)
    x = network.mid_block.attentions[0](x, text, frames)
    x = network.mid_block.resnets[1](x, time, frames)
    if config.temporal_convolutions:
        x = network.mid_temporal_block(x, time, frames)

    for i, block in enumerate(network.up_blocks):
        for j in range(config.layers_per_block + 1):
            x = block.resnets[j](torch.cat([x, skips.pop()], 1), time, frames)
            if config.cross_attention[len(network.up_blocks) - 1 - i]:
                x = block.attentions[j](x, text, frames)
        if skips:
            x = block.upsamplers[0](x, tuple(skips[-1].shape[2:]))
        if config.temporal_convolutions:
            x = network.up_temporal_blocks[i](x, time, frames)

    # The last norm pools over a clip, and over its images too if the network's statistics do.
    clips, alone = parts(x, batch, frames.video, frames.images)
    norm = network.conv_norm_out, config.norm_num_groups, 1e-5
    for b in range(batch):
        if frames.pool_images:
            (joint,) = by_hand.group_norm(*norm, torch.cat([clips[b], *alone[b]]))
            clips[b], alone[b] = joint[: frames.video], list(joint[frames.video :].split(1))
        else:
            (clips[b],), alone[b] = by_hand.group_norm(*norm, clips[b]), by_hand.group_norm(*norm, *alone[b])
    y = by_hand.spatial_conv(network.conv_out, by_hand.silu(whole(clips, alone)))
    clips, alone = parts(y, batch, frames.video, frames.images)
    return torch.stack([torch.cat([clips[b], *alone[b]], 0) for b in range(batch)]).transpose(1, 2)


@pytest.mark.parametrize("images", (0, 2))
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, images):
    config = NETWORKS[name]
    network = random_weights(VideoUNet(config))
    for parameter in network.parameters():  # so that numbers neither grow nor vanish over dozens of layers
        parameter.data /= 0.4 * math.sqrt(max(1, parameter[0].numel()))
    sample, text = randn(2, config.in_channels, 3 + images, 6, 5), randn(2, 1 + images, 7, 24)
    timestep, level = torch.tensor([7, 981]), torch.tensor([3, 19]) if config.num_noise_levels else None
    frames = Frames(3, images, config.norm_statistics == "pooled")
    expected = network_by_hand(network, sample, timestep, text, level, frames)
    for condition in (0, config.in_channels - 4):
        given, low_res = sample.split([config.in_channels - condition, condition], 1) if condition else (sample, None)
        words = text if images else text[:, 0]
        actual = network(given, timestep, words, low_res=low_res, noise_level=level, num_images=images)
        # The sinusoid is computed in float32, by other roundings.
        assert relative_error(actual, expected) <= TOLERANCES[torch.float32]


def test_widths_of_the_skips():
    """Each layer on the way up takes the width below it and that of its counterpart on the way down."""
    sizes = dict(block_out_channels=(16, 32, 64), cross_attention=(True, True, False), layers_per_block=2)
    network = VideoUNet(tiny_unet(**sizes, rotary_dim=16))
    widths = [[resnet.conv1.weight.shape[1] for resnet in block.resnets] for block in network.up_blocks]
    assert widths == [[64 + 64, 64 + 64, 64 + 32], [64 + 32, 32 + 32, 32 + 16], [32 + 16, 16 + 16, 16 + 16]]
    assert network.time_embedding.linear_1.weight.shape == (64, 16)
