"""Names of modules: no two of a network share a name without dots, and ldm's names are those of the original code."""

import pytest
import torch

from lavie.config.model import UNetConfig
from lavie.models.lora.names import flat_names, ldm_name, numbered_text, numbered_unet, spatial_modules, text_name
from lavie.models.unet import VideoUNet


@pytest.fixture(scope="module", params=({}, {"preset": "interpolation"}, {"preset": "vsr"}), ids=("base", "2", "vsr"))
def names(request):
    """The spatial modules of a network at full size."""
    with torch.device("meta"):
        return list(spatial_modules(VideoUNet(UNetConfig(**request.param))))


def test_every_module_has_its_own_names(names):
    table = flat_names(names, 2)
    assert set(table.values()) == set(names)
    assert len({name.replace(".", "_") for name in names}) == len(names)
    assert len({ldm_name(name, 2, names) for name in names}) == len(names)
    assert len(table) == 2 * len(names)


@pytest.mark.parametrize(
    "ours, theirs",
    (
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        ("down_blocks.2.resnets.1.time_emb_proj", "input_blocks.8.0.emb_layers.1"),
        ("mid_block.resnets.1.norm2", "middle_block.2.out_layers.0"),
        ("mid_block.attentions.0.transformer_blocks.0.ff.net.2", "middle_block.1.transformer_blocks.0.ff.net.2"),
        ("up_blocks.0.resnets.2.conv_shortcut", "output_blocks.2.0.skip_connection"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        (
            "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
            "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0",
        ),
        ("conv_out", "out.2"),
    ),
)
def test_names_of_the_original_code(ours, theirs):
    with torch.device("meta"):
        names = list(spatial_modules(VideoUNet(UNetConfig())))
    assert ours in names and ldm_name(ours, 2, names) == theirs


def test_text_names():
    assert text_name("text_model_encoder_layers_11_self_attn_out_proj") == "encoder.layers.11.self_attn.out_proj"
    assert text_name("text_model_encoder_layers_0_mlp_fc2") == "encoder.layers.0.mlp.fc2"
    assert text_name("text_model_encoder_layers_0_layer_norm1") == "encoder.layers.0.layer_norm1"
    assert text_name("text_model_final_layer_norm") == "final_layer_norm"
    assert text_name("text_model_encoder_layers_0_mlp_fc3") is None


def test_the_numbers_of_2022():
    with torch.device("meta"):
        numbered = numbered_unet(spatial_modules(VideoUNet(UNetConfig())))
    assert len(numbered) == 144
    assert numbered[0] == "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert numbered[4] == "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
    assert numbered[54] == "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert numbered[-1] == "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    assert [numbered_text(i) for i in (0, 5)] == [
        "encoder.layers.0.self_attn.k_proj",
        "encoder.layers.1.self_attn.v_proj",
    ]
