"""Which parameters train."""

import pytest

from lavie.models.trainable import is_temporal, set_trainable
from lavie.models.unet import VideoUNet
from lavie.testing import tiny_unet


def trainable(network):
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_set_trainable(make_2d):
    network = VideoUNet(tiny_unet())
    everything = {name for name, _ in network.named_parameters()}
    spatial = set(make_2d(tiny_unet()).state_dict())
    set_trainable(network, "temporal")
    assert trainable(network) == everything - spatial
    assert len(everything - spatial) == 4 * 8  # 4 transformers: q, k, v, out (2), bias, norm (2)
    set_trainable(network, "spatial")
    assert trainable(network) == spatial
    set_trainable(network, "all")
    assert trainable(network) == everything


@pytest.mark.parametrize("part", ("attn_temp.to_q.weight", "norm_temp.bias", "attn_temp.time_rel_pos_bias.x.weight"))
def test_is_temporal(part):
    assert is_temporal(f"down_blocks.0.attentions.0.transformer_blocks.0.{part}")
    assert not is_temporal("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight")
    assert not is_temporal("time_embedding.linear_1.weight")
