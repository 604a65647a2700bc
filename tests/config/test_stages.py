"""What each stage is, and the presets of its network."""

from pathlib import Path

import pytest

from lavie.config.load import dump_yaml, load_config, validate
from lavie.config.model import PRESETS, UNetConfig
from lavie.config.stages import STAGES
from lavie.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

WRITTEN_OUT = {
    "base": dict(rotary_dim=32, relative_bias=True, norm_statistics="separate"),
    "base_quality": dict(rotary_dim=32, relative_bias=True, norm_statistics="separate"),
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


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_the_released_network_takes_the_condition(stage):
    assert stage.network == UNetConfig(**PRESETS[stage.name])
    channels = stage.network.out_channels
    assert stage.network.in_channels == channels + stage.condition_channels(channels)
    assert bool(stage.network.num_noise_levels) == (stage.condition == "low_resolution")
    stage.require_frames(stage.released_clip.num_frames, 4, "data.num_frames")


def test_what_a_clip_is_made_from():
    assert STAGES["interpolation"].given_frames(61, 4) == 16
    assert STAGES["vsr"].given_frames(8, 4) == 8
    assert STAGES["interpolation"].given_size(320, 512, 8) == (320, 512)
    assert STAGES["vsr"].given_size(1280, 2048, 4) == (320, 512)
    with pytest.raises(ValueError, match=r"data.num_frames is 60: with keyframe_interval 4 a clip has n \* 4 \+ 1"):
        STAGES["interpolation"].require_frames(60, 4, "data.num_frames")
