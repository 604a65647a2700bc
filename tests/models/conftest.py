import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from lavie.models.unet import VideoUNet
from lavie.testing import SHARED, tiny_unet


@cache
def read_golden(stage):
    """The released code's tiny network of a stage: its config, its state dict, and each case's inputs and output."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}")
    tensors = load_file(SHARED / f"golden/{stage}.safetensors")
    inputs = ("sample", "timestep", "encoder_hidden_states", "low_res", "class_labels")
    cases = {}
    for name in ("", "long.", "odd.", "joint."):
        if name + "output" in tensors:
            case = {key: tensors.pop(f"{name}input.{key}", None) for key in inputs}
            cases[name or "main"] = (*(case[key] for key in inputs), tensors.pop(name + "output"))
    return json.loads((SHARED / f"golden/{stage}.json").read_text())["config"], tensors, cases


@pytest.fixture
def golden_of():
    """A function: stage -> (config, state dict, cases)."""
    return read_golden


@pytest.fixture
def golden():
    """The base network's config and state dict."""
    return read_golden("base")[:2]


@pytest.fixture
def make_network():
    """A function: config -> a network with random weights everywhere, the zero-initialised ones too."""

    def make(config, seed=0):
        torch.manual_seed(seed)
        network = VideoUNet(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if not parameter.any():
                    parameter.normal_(std=1 if "rel_pos_bias" in name else 0.1)
        return network

    return make


@pytest.fixture
def network(make_network):
    """A tiny network with random weights."""
    return make_network(tiny_unet())


@pytest.fixture
def make_2d():
    """A function: config -> diffusers' UNet2DConditionModel with the spatial shape of the same config."""

    def make(config, seed=0):
        from diffusers import UNet2DConditionModel

        torch.manual_seed(seed)
        kinds = dict(
            only_cross_attention=config.only_cross_attention,
            use_linear_projection=config.linear_projection,
            num_class_embeds=config.num_noise_levels or None,
        )
        down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.cross_attention)
        up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.cross_attention))
        return UNet2DConditionModel(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            block_out_channels=config.block_out_channels,
            down_block_types=down,
            up_block_types=up,
            layers_per_block=config.layers_per_block,
            attention_head_dim=config.heads,  # diffusers' name for the number of heads
            cross_attention_dim=config.cross_attention_dim,
            norm_num_groups=config.norm_num_groups,
            **kinds,
        ).eval()

    return make
