"""Released files are translated both ways without touching a bit, and what does not fit is named."""

import pytest
import torch

from lavie.config.model import UNetConfig
from lavie.errors import CheckpointError
from lavie.models.released import read_released, require_released_kind
from lavie.models.weights import load_official, to_official, unet_config
from lavie.testing import tiny_unet
from tests.models.by_hand import random_weights
from tests.models.states import FREQUENCIES, add, drop, reshape

CONFIG = dict(
    in_channels=4,
    out_channels=4,
    block_out_channels=[32, 64],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    layers_per_block=1,
    attention_head_dim=1,
    cross_attention_dim=24,
    norm_num_groups=8,
)
"""The config of a tiny released base network, in diffusers' style."""
CONFIGS = {
    "base": CONFIG,
    "interpolation": CONFIG | {"in_channels": 8},
    "vsr": CONFIG
    | dict(
        in_channels=7,
        only_cross_attention=[True, False],
        use_linear_projection=True,
        num_class_embeds=20,
        max_noise_level=15,
    ),
}
RATES = torch.tensor([10000.0 ** (-2 * i / 32) for i in range(16)])


def released(stage):
    """A released state dict by the rules of the released code, from the names of ours."""
    from lavie.models.unet import VideoUNet

    torch.manual_seed(0)
    network = random_weights(VideoUNet(unet_config(stage, CONFIGS[stage]))).float()
    state = dict(network.state_dict())
    if stage == "vsr":
        state = {
            name.replace("attn_temp.", "attn_temporal.").replace("norm_temp.", "norm_temporal."): value
            for name, value in state.items()
        }
    temporal = "attn_temporal" if stage == "vsr" else "attn_temp"
    blocks = {name.split(f".{temporal}.")[0] for name in state if f".{temporal}." in name}
    assert len(blocks) == 4  # one on the way down, one in the middle, two on the way up
    if stage != "interpolation":
        state |= {f"{block}.{temporal}.rotary_emb.freqs": RATES.clone() for block in blocks}
    if stage == "vsr":
        state["temporal_rotary_emb.freqs"] = RATES.clone()
    return network, state


@pytest.fixture
def base():
    """The config and the state dict of a tiny released base network."""
    return CONFIG, released("base")[1]


@pytest.mark.parametrize("stage", CONFIGS)
def test_names_and_constants_are_those_of_the_released_code(stage):
    network, state = released(stage)
    loaded = load_official(stage, state, CONFIGS[stage])
    assert loaded.config == network.config
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    back = to_official(stage, loaded)
    assert back.keys() == state.keys()
    for name, value in back.items():
        same = torch.allclose(value, state[name], rtol=1e-6) if "freqs" in name else torch.equal(value, state[name])
        assert same, name


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


def test_config_of_a_diffusers_folder():
    """What diffusers says is taken as it is, the rest is the stage's."""
    wanted = dict(num_attention_heads=1, norm_statistics="pooled")
    assert unet_config("base", CONFIG) == tiny_unet(**wanted)
    assert unet_config("interpolation", CONFIGS["interpolation"]) == tiny_unet(
        **wanted,
        in_channels=8,
        spatial_attention="first_and_previous",
        temporal_order="after_feed_forward",
        rotary_dim=0,
        relative_bias=False,
    )
    vsr = unet_config("vsr", CONFIGS["vsr"])
    assert (vsr.in_channels, vsr.only_cross_attention, vsr.linear_projection) == (7, (True, False), True)
    assert (vsr.num_noise_levels, vsr.max_noise_level, vsr.temporal_convolutions) == (20, 15, True)
    for key in CONFIG:
        with pytest.raises(CheckpointError, match=f"there: key {key} is missing"):
            unet_config("base", {name: value for name, value in CONFIG.items() if name != key}, "there")


@pytest.mark.parametrize(
    "change",
    (
        dict(spatial_attention="first_and_previous"),
        dict(temporal_order="after_feed_forward"),
        dict(temporal_module="space_time", relative_bias=False),
        dict(temporal_position="absolute"),
        dict(rotary_dim=16),
        dict(relative_bias=False),
        dict(temporal_convolutions=True),
        dict(in_channels=9),
    ),
)
def test_what_the_released_code_would_compute_otherwise_is_refused(change):
    require_released_kind("base", tiny_unet())
    with pytest.raises(CheckpointError, match=f"model.{next(iter(change))} is .* the released base network"):
        require_released_kind("base", tiny_unet(**change))


def test_half_precision_frequencies_are_recognised(base):
    config, state = base
    halved = {name: value.half() for name, value in state.items()}
    network = load_official("base", halved, config)
    assert torch.equal(network.conv_in.weight, state["conv_in.weight"].half().float())
    assert to_official("base", network.bfloat16())["conv_in.weight"].dtype == torch.bfloat16


NAMES = (
    "conv_in.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn_temp.to_out.0.bias",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn_temp.time_rel_pos_bias.relative_attention_bias.weight",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", (drop, add, reshape))
def test_released_weights_must_fit(base, damage, name):
    config, state = base
    what = damage(state, name)
    with pytest.raises(CheckpointError, match=f"{what}: {name}"):
        load_official("base", state, config)


@pytest.mark.parametrize(
    "change",
    (
        lambda f: f * 1.01,
        lambda f: f * 1.003,  # more than float16 rounds by
        lambda f: f + 2e-4,
        lambda f: f[:-1],
        lambda f: f.flip(0),
        lambda f: f * 0,
    ),
)
def test_other_rotary_frequencies_are_refused(base, change):
    config, state = base
    name = "mid_block.attentions.0.transformer_blocks.0" + FREQUENCIES
    with pytest.raises(CheckpointError, match=name):
        load_official("base", {**state, name: change(state[name])}, config)


@pytest.mark.parametrize("content", (3, [torch.ones(1)], {"a": torch.ones(1), "b": 3}, {"ema": {1: torch.ones(1)}}))
def test_files_of_something_else_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="wanted a state dict, or a dict with one under"):
        read_released(tmp_path / "x.pt")


def test_unknown_stages_are_refused(base, network):
    config, state = base
    with pytest.raises(CheckpointError, match="'upscaler': wanted one of base"):
        load_official("upscaler", state, config)
    with pytest.raises(CheckpointError, match="'upscaler': wanted one of base"):
        to_official("upscaler", network)
