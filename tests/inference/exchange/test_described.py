"""Whatever tells of a network to import: the whole run where there is one, else the network alone."""

import json
import shutil

import pytest

from lavie.config.model import UNetConfig
from lavie.config.stages import STAGES
from lavie.errors import CheckpointError, ConfigError
from lavie.inference.exchange.described import Described, read_described
from tests.cascades import stage_config
from tests.inference.exchange.exports import STAGES as NAMES


@pytest.mark.parametrize("stage", NAMES)
def test_a_run_is_told_by_any_of_its_files(cascade_folder, exported, stage):
    checkpoint = cascade_folder / stage / "checkpoint-3"
    for place in (
        cascade_folder / stage,
        checkpoint,
        checkpoint / "config.yaml",
        checkpoint / "unet/config.json",
        exported / stage,
        exported / stage / "unet/config.json",
    ):
        found = read_described(place, stage)
        assert found.model == stage_config(stage).model, place
        assert found.run is not None and found.run["stage"] == stage and found.encoders is None


@pytest.mark.parametrize("stage", NAMES)
def test_the_file_of_a_network_tells_of_it_alone(cascade_folder, tmp_path, stage):
    """Its name and its place say nothing."""
    source = cascade_folder / stage / "checkpoint-3/unet/config.json"
    (tmp_path / "unet").mkdir()
    for place in (tmp_path / "mine.json", tmp_path / "config.json", tmp_path / "unet/config.json"):
        shutil.copyfile(source, place)
        assert read_described(place, stage) == Described(stage_config(stage).model)
    values = json.loads(source.read_text()) | {"num_attention_heads": 5}
    (tmp_path / "mine.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"mine\.json"):
        read_described(tmp_path / "mine.json", stage)


DIFFUSERS = {
    "in_channels": 7,
    "out_channels": 4,
    "block_out_channels": [64, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}


@pytest.mark.parametrize(
    "more, levels, highest",
    (
        ({}, 0, None),
        ({"num_class_embeds": 1000}, 1000, 350),
        ({"num_class_embeds": 351}, 351, 350),
        ({"num_class_embeds": 350}, 350, 349),
        ({"num_class_embeds": 20, "max_noise_level": 7}, 20, 7),
    ),
)
def test_a_file_in_diffusers_style(tmp_path, more, levels, highest):
    """The number of heads stands under another name there, and the highest noise level is the released network's."""
    (tmp_path / "c.json").write_text(json.dumps(DIFFUSERS | {"use_linear_projection": True} | more))
    kind = STAGES["vsr"].network
    expected = UNetConfig(
        in_channels=7,
        out_channels=4,
        block_out_channels=(64, 128),
        cross_attention=(False, True),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=24,
        norm_num_groups=8,
        linear_projection=True,
        num_noise_levels=levels,
        max_noise_level=highest,
        norm_statistics="pooled",
        temporal_convolutions=True,
        rotary_dim=kind.rotary_dim,
        relative_bias=kind.relative_bias,
        spatial_attention=kind.spatial_attention,
        temporal_order=kind.temporal_order,
    )
    assert read_described(tmp_path / "c.json", "vsr") == Described(expected)


def test_what_tells_of_nothing_is_named(cascade_folder, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({k: v for k, v in DIFFUSERS.items() if k != "in_channels"}))
    with pytest.raises(CheckpointError, match=r"c\.json: key in_channels is missing"):
        read_described(tmp_path / "c.json", "base")
    with pytest.raises(CheckpointError, match="is of stage vsr: give --stage vsr"):
        read_described(cascade_folder / "vsr", "base")


def test_encoders_are_those_that_lie_there(cascade_folder, pretrained, tmp_path):
    """Beside the config of an export, or where a run's config says; none where a part is missing."""
    run = tmp_path / "run"
    run.mkdir()
    encoders = {"autoencoder": {"type": "diffusers"}, "text_encoder": {"type": "clip", "max_length": 77}}
    model = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 32}
    for named, home in ((str(pretrained()), pretrained()), (".", run)):
        values = stage_config("base", **encoders, model=model, pretrained_model_name_or_path=named)
        (run / "config.yaml").write_text(json.dumps(values.model_dump(mode="json")))
        if home == run:
            assert read_described(run / "config.yaml", "base").encoders is None
            for part in ("vae", "text_encoder", "tokenizer"):
                shutil.copytree(pretrained() / part, run / part)
        assert read_described(run / "config.yaml", "base").encoders == home
    shutil.rmtree(run / "tokenizer")
    assert read_described(run / "config.yaml", "base").encoders is None
