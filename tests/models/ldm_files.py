"""Single files of Stable Diffusion in miniature: three tiny networks of diffusers and transformers under ldm's names.

The names are those of lavie.models.ldm_names; that they are ldm's is what its own test asks diffusers' converter.
"""

from functools import cache

import torch

from lavie.models.ldm_names import TEXT, UNET, VAE, ema_name, text_name, unet_name, vae_name
from lavie.testing import tiny_unet


def tiny_network(**changes):
    """Return the config of a video network whose 2-D UNet has two levels and reads features of 32 channels."""
    return tiny_unet(cross_attention_dim=32, **changes)


@cache
def flat_unet(seed=0, **changes):
    """Return diffusers' 2-D UNet of the sizes of `tiny_network`, its weights random everywhere."""
    from diffusers import UNet2DConditionModel

    values = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 1,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    return random_values(UNet2DConditionModel(**values | changes), seed)


def random_values(network, seed):
    """Fill every parameter with random numbers of its seed, and return the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return network


def ldm_unet(flat, config, *, averaged=None):
    """Return the state dict of a 2-D UNet under a file's names, and that of its average, if there is one.

    Args:
        flat: the 2-D UNet's state dict.
        config: the video network's.
        averaged: the state dict of the average.
    """
    state = {UNET + unet_name(name, config): value for name, value in flat.items()}
    if averaged is not None:
        state |= {ema_name(UNET + unet_name(name, config)): value for name, value in averaged.items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return state


def ldm_encoders(folder, seed=3):
    """Return random weights of the autoencoder and the text model of a diffusers folder, under a file's names."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    vae = random_values(AutoencoderKL.from_pretrained(folder / "vae"), seed)
    text = random_values(CLIPTextModel.from_pretrained(folder / "text_encoder"), seed + 1)
    state = {}
    for name, value in vae.state_dict().items():
        key = VAE + vae_name(name, len(vae.config.block_out_channels))
        convolution = ".attn_1." in key and value.ndim == 2  # as ldm has its attention
        state[key] = value[:, :, None, None].clone() if convolution else value
    state |= {TEXT + text_name(name): value for name, value in text.state_dict().items()}
    state[TEXT + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state, vae, text


CONSTANTS = {"betas": torch.linspace(0.1, 0.2, 10), "logvar": torch.zeros(10), "first_of_no_network": torch.zeros(1)}
"""Keys of a file beside its networks."""
