"""The presets of the network, and its faults and those of the autoencoder, which are told before anything runs."""

import pytest

from lavie.config.load import dump_yaml, load_config, validate
from lavie.config.model import UNetConfig
from lavie.config.overrides import merge
from lavie.config.stages import STAGES
from lavie.errors import ConfigError
from tests.config.values import BASE, ROOT, assert_told

CONFIGS = ROOT / "configs"

WRITTEN_OUT = {
    "base": dict(rotary_dim=32, relative_bias=True, norm_statistics="separate"),
    "base_quality": dict(rotary_dim=32, relative_bias=True, norm_statistics="separate"),
    "base_frames": dict(in_channels=9, rotary_dim=32, relative_bias=True, norm_statistics="separate"),
    "interpolation": dict(in_channels=8, rotary_dim=32, relative_bias=False, norm_statistics="separate"),
    "vsr": dict(
        in_channels=7,
        block_out_channels=[256, 512, 512, 1024],
        cross_attention=[False, True, True, True],
        only_cross_attention=[True, True, True, False],
        cross_attention_dim=1024,
        linear_projection=True,
        num_noise_levels=1000,
        max_noise_level=350,
        temporal_convolutions=True,
        rotary_dim=32,
        relative_bias=True,
        norm_statistics="separate",
    ),
}
"""The `model` sections of the full-size configs, key by key."""


@pytest.mark.parametrize("name, section", WRITTEN_OUT.items())
def test_a_preset_resolves_to_the_section_written_out(name, section):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.model == validate(UNetConfig, section, name)
    assert dump_yaml(config.model) == dump_yaml(validate(UNetConfig, section, name))
    assert "preset" not in dump_yaml(config)


def test_keys_beside_a_preset_come_first(tmp_path):
    vsr = load_config(CONFIGS / "vsr.yaml", ["model.max_noise_level=50", "model.norm_statistics=pooled"]).model
    assert vsr == STAGES["vsr"].network.model_copy(update={"max_noise_level": 50, "norm_statistics": "pooled"})
    other = load_config(CONFIGS / "interpolation.yaml", ["model.preset=interpolation"]).model
    assert other == STAGES["interpolation"].network
    dumped = tmp_path / "config.yaml"
    dumped.write_text(dump_yaml(load_config(CONFIGS / "vsr.yaml")))
    assert load_config(dumped, ["model.preset=base"]) == load_config(CONFIGS / "vsr.yaml")


@pytest.mark.parametrize(
    "override, message",
    (
        ("model.preset=sr", "model: preset is 'sr': wanted one of base, interpolation, vsr"),
        ("model.preset=[vsr]", r"model: preset is \['vsr'\]: wanted one of"),
        ("model.prest=vsr", "unknown key model.prest; did you mean model.preset?"),
    ),
)
def test_a_wrong_preset_is_told(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "vsr.yaml", [override])


@pytest.mark.parametrize(
    "change, words",
    (
        ({"autoencoder": {"coefficients": 17}}, ["autoencoder", "coefficients is 17", "4^2"]),
        (
            {"autoencoder": {"type": "patch", "coefficients": 3, "scaling_factor": [1, 2]}},
            ["scaling_factor is [1.0, 2.0]", "3"],
        ),
        ({"autoencoder": {"scaling_factor": [1, 2]}}, ["scaling_factor is [1.0, 2.0]", "one number"]),
        ({"model": {"cross_attention": [True]}}, ["cross_attention has 1", "block_out_channels has 4"]),
        ({"model": {"num_attention_heads": [8, 8]}}, ["num_attention_heads has 2", "block_out_channels has 4"]),
        ({"model": {"num_attention_heads": 7}}, ["320", "num_attention_heads 7"]),
        ({"model": {"norm_num_groups": 48}}, ["320", "norm_num_groups 48"]),
        ({"model": {"rotary_dim": 42}}, ["rotary_dim 42", "head dim 40"]),
    ),
)
def test_a_wrong_value_is_told_with_what_was_got_and_wanted(change, words):
    assert_told(merge(BASE, change), words)


def test_the_dims_that_rope_turns_are_none_without_rope():
    assert UNetConfig().turned_dims == 32
    assert UNetConfig(temporal_position="absolute").turned_dims == 0 == UNetConfig(temporal_position="none").turned_dims


def test_attention_over_space_and_time_has_no_bias_of_frames():
    assert UNetConfig(temporal_module="space_time", relative_bias=False).temporal_module == "space_time"
    assert_told(BASE | {"model": BASE["model"] | {"temporal_module": "space_time"}}, ["set relative_bias to false"])
