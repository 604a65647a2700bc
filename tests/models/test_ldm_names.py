"""The names of single files are ldm's: diffusers' own converter leads every one of them back to where it came from."""

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from lavie.config.model import PRESETS, UNetConfig
from lavie.models.ldm_names import EMA, TEXT, UNET, VAE, ema_name, text_name, unet_name, vae_name
from lavie.models.meta_encoders import meta_autoencoder, meta_text_model
from lavie.models.unet import VideoUNet
from lavie.models.weights import spatial_shapes
from lavie.testing import tiny_unet
from tests.models.ldm_files import ldm_unet
from tests.models.networks import tiny_vsr


def same_objects(a, b):
    """Whether two state dicts hold the very same tensors under the same names: none has values to compare."""
    return a.keys() == b.keys() and all(a[name] is b[name] for name in a)


def meta_state(config):
    """The spatial parameters of a network without memory: of any size."""
    with torch.device("meta"):
        shapes = spatial_shapes(VideoUNet(config))
    return {name: torch.empty(size, device="meta") for name, size in shapes.items()}


NETWORKS = {
    "stable-diffusion-1": UNetConfig(),
    "x4-upscaler": UNetConfig.model_validate(PRESETS["vsr"]),
    "tiny": tiny_unet(),
    "tiny-vsr": tiny_vsr(),
    "deep": tiny_unet(layers_per_block=3, block_out_channels=(32, 32, 64), cross_attention=(False, True, True)),
}


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("extract_ema", (False, True))
def test_every_name_of_the_unet_is_the_converters(config, extract_ema):
    plain, averaged = meta_state(config), meta_state(config)
    file = ldm_unet(plain, config, averaged=averaged)
    assert len(file) == 2 * len(plain) + 2
    theirs = {"layers_per_block": config.layers_per_block, "num_class_embeds": config.num_noise_levels or None}
    # The converter believes in an average from a hundred keys on.
    file |= {f"model_ema.other{i}": torch.zeros(1) for i in range(100)}
    back = convert_ldm_unet_checkpoint(file, theirs, extract_ema=extract_ema)
    assert same_objects(back, averaged if extract_ema else plain)


def test_stable_diffusion_1_has_686_names_of_which_some_are_known():
    config = NETWORKS["stable-diffusion-1"]
    names = {UNET + unet_name(name, config) for name in meta_state(config)}
    assert len(names) == 686
    assert {CHECKPOINT_KEY_NAMES["v1"], CHECKPOINT_KEY_NAMES["v2"], CHECKPOINT_KEY_NAMES["inpainting"]} <= names
    assert len({ema_name(name) for name in names}) == 686
    assert ema_name(CHECKPOINT_KEY_NAMES["inpainting"]) == f"{EMA}diffusion_modelinput_blocks00weight"


def test_names_of_modules_are_named_as_their_parameters():
    """What names a LoRA's module: without a parameter at its end, and with nothing but a block."""
    config = NETWORKS["stable-diffusion-1"]
    for name in meta_state(config):
        module, _, leaf = name.rpartition(".")
        assert f"{unet_name(module, config)}.{leaf}" == unet_name(name, config)
    assert unet_name("up_blocks.0.upsamplers.0.conv", config) == "output_blocks.2.1.conv"
    assert unet_name("up_blocks.1.upsamplers.0.conv", config) == "output_blocks.5.2.conv"
    assert unet_name("down_blocks.2.downsamplers.0.conv", config) == "input_blocks.9.0.op"
    assert unet_name("down_blocks.0.resnets.1", config) == "input_blocks.2.0"


@pytest.mark.parametrize("stride", (8, 4))
def test_every_name_of_the_autoencoder_is_the_converters(stride):
    vae = meta_autoencoder(None, stride, torch.float32)
    state, levels = dict(vae.state_dict()), len(vae.config.block_out_channels)
    file = {VAE + vae_name(name, levels): value for name, value in state.items()}
    assert len(file) == len(state)
    back = convert_ldm_vae_checkpoint(file, dict(vae.config))
    assert same_objects(back, state)
    assert "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight" in file
    assert "first_stage_model.encoder.mid.attn_1.proj_out.bias" in file


def test_every_name_of_the_text_model_is_the_converters():
    state = dict(meta_text_model(None, 768).state_dict())
    file = {TEXT + text_name(name): value for name, value in state.items()}
    back = convert_ldm_clip_checkpoint(file)
    assert same_objects(back, {text_name(name): value for name, value in state.items()})
    assert CHECKPOINT_KEY_NAMES["clip"] in file
    assert text_name("text_model.a.b") == text_name("a.b") == "text_model.a.b"
