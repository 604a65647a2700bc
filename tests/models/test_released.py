"""Released files are translated both ways without touching a bit, and what does not fit is named."""

import pytest
import torch

from lavie.config.model import UNetConfig
from lavie.errors import CheckpointError
from lavie.models.weights import load_official, to_official, unet_config
from tests.models.states import FREQUENCIES, add, drop, reshape


@pytest.mark.parametrize("stage,frequencies", (("base", 6), ("interpolation", 0), ("vsr", 8)))
def test_released_weights_round_trip(golden_of, stage, frequencies):
    config, state, _ = golden_of(stage)
    back = to_official(stage, load_official(stage, state, config))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    assert sum(name.endswith("rotary_emb.freqs") for name in back) == frequencies


def test_config_of_the_released_network(golden):
    assert unet_config("base", golden[0]) == UNetConfig(
        block_out_channels=(40, 80),
        cross_attention=(True, False),
        layers_per_block=2,
        num_attention_heads=(1, 2),
        cross_attention_dim=32,
        norm_num_groups=8,
        norm_statistics="pooled",
    )


def test_half_precision_frequencies_are_recognised(golden):
    config, state = golden
    halved = {name: value.half() for name, value in state.items()}
    network = load_official("base", halved, config)
    assert torch.equal(network.conv_in.weight, state["conv_in.weight"].half().float())


NAMES = (
    "conv_in.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn_temp.to_out.0.bias",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn_temp.time_rel_pos_bias.relative_attention_bias.weight",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", (drop, add, reshape))
def test_released_weights_must_fit(golden, damage, name):
    config, state = golden
    state = dict(state)
    what = damage(state, name)
    with pytest.raises(CheckpointError, match=f"{what}: {name}"):
        load_official("base", state, config)


@pytest.mark.parametrize("change", (lambda f: f * 1.01, lambda f: f[:-1], lambda f: f.flip(0), lambda f: f * 0))
def test_other_rotary_frequencies_are_refused(golden, change):
    config, state = golden
    name = "mid_block.attentions.0.transformer_blocks.0" + FREQUENCIES
    with pytest.raises(CheckpointError, match=name):
        load_official("base", {**state, name: change(state[name])}, config)


def test_unknown_stages_are_refused(golden, network):
    config, state = golden
    with pytest.raises(CheckpointError, match="'upscaler': wanted one of base"):
        load_official("upscaler", state, config)
    with pytest.raises(CheckpointError, match="'upscaler': wanted one of base"):
        to_official("upscaler", network)
