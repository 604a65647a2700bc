import json

import pytest
import torch
from safetensors.torch import load_file

from lavie.models.unet import VideoUNet
from lavie.testing import SHARED


@pytest.fixture(scope="session")
def golden():
    """The released code's tiny base network: its config, its state dict, and the inputs and output of each case."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}")
    tensors = load_file(SHARED / "golden/base.safetensors")
    cases = {}
    for name in ("", "long.", "odd.", "joint."):
        keys = ("input.sample", "input.timestep", "input.encoder_hidden_states", "output")
        cases[name or "main"] = tuple(tensors.pop(name + key) for key in keys)
    return json.loads((SHARED / "golden/base.json").read_text())["config"], tensors, cases


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
def make_2d():
    """A function: config -> diffusers' UNet2DConditionModel with the spatial shape of the same config."""

    def make(config, seed=0):
        from diffusers import UNet2DConditionModel

        torch.manual_seed(seed)
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
        ).eval()

    return make
