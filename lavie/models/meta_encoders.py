"""The frozen encoders without memory, from which their sizes are read: of a folder if it is here, else as released."""

import json
from pathlib import Path
from typing import Any

import torch

CLIP = {
    1024: {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    768: {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""The text encoders of the x4 upscaler and of Stable Diffusion 1.4 by their width, where no folder tells of them."""
AUTOENCODER = {
    8: {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "layers_per_block": 2},
    4: {"block_out_channels": [128, 256, 512], "latent_channels": 4, "layers_per_block": 2},
}
"""The autoencoders of Stable Diffusion 1.4 and of the x4 upscaler by their stride, where no folder tells of them."""


def meta_autoencoder(pretrained: str | None, stride: int, dtype: torch.dtype) -> Any:
    """Return diffusers' autoencoder on the meta device, frozen.

    Args:
        pretrained: the folder that holds vae/; it need not be there.
        stride: the pixels per latent, 8 or 4, that the autoencoder has where the folder is elsewhere.
        dtype: of its weights.
    """
    from diffusers import AutoencoderKL

    values = _described(pretrained, "vae")
    if values is None:
        values = dict(AUTOENCODER[stride])
        levels = len(values["block_out_channels"])
        values["down_block_types"] = ["DownEncoderBlock2D"] * levels
        values["up_block_types"] = ["UpDecoderBlock2D"] * levels
    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(values)
    # diffusers' own `to` warns of what does not concern a network without values.
    return torch.nn.Module.to(vae, dtype).requires_grad_(False)


def meta_text_model(pretrained: str | None, width: int) -> Any:
    """Return CLIP's text model on the meta device; arguments as above, `width` in features."""
    from transformers import CLIPTextConfig, CLIPTextModel

    values = _described(pretrained, "text_encoder") or CLIP.get(width, CLIP[768])
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**values))


def clip_parameters(pretrained: str | None, width: int) -> int:
    """Return the number of parameters of CLIP's text model; arguments as above."""
    return sum(p.numel() for p in meta_text_model(pretrained, width).parameters())


def _described(pretrained: str | None, part: str) -> dict[str, Any] | None:
    """Return config.json of a part of a pretrained folder, or None where the folder is elsewhere."""
    file = Path(pretrained or "") / part / "config.json"
    return json.loads(file.read_text()) if pretrained and file.exists() else None
