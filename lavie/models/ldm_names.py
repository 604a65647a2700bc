"""What single files of Stable Diffusion call the parameters of its networks: the names of the ldm layout.

A single file, a .safetensors or .ckpt of CompVis' and Stability's training code (ldm, later sgm), holds the three
networks under prefixes. Inside, the UNet's blocks are numbered along one list on the way down and one on the way up,
where diffusers counts them by level. The tables go from the names in diffusers' style, which this project's spatial
parameters have, to those of a file, so that a missing key can be told by the name that the file should have.
"""

import re

from ..config.model import UNetConfig

UNET, VAE, TEXT, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.", "model_ema."
"""The prefixes of the UNet, the autoencoder and CLIP's text model in a file, and of the UNet's averaged weights."""
TEXT_MODEL = "text_model."
"""What precedes the names of CLIP's text model in files; transformers has dropped it from its own in version 5.6."""

ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The UNet's modules outside its levels."""
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""The modules of the UNet's residual blocks."""
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")
"""A module in a level: the way, the level, its kind and number, and what is in it, if that is named."""

VAE_ENDS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
}
"""The modules of the autoencoder's halves outside their levels; conv_in and conv_out are called so on both sides."""
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
"""The modules of the autoencoder's attention. In a file all but the norm are 1x1 convolutions, here linear layers."""
VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")


def unet_name(name: str, config: UNetConfig) -> str:
    """Return what a file calls a spatial parameter or module of a UNet, behind the prefix UNET.

    Args:
        name: in diffusers' style, as `down_blocks.0.resnets.1.conv1.weight`, or a module's in the same style.
        config: the network, whose levels and layers decide the numbers of the blocks.
    """
    block = BLOCK.fullmatch(name)
    if block is None:
        head, rest = _split(name, ENDS)
        return _join(ENDS[head], _in_resnet(rest) if "resnets" in head else rest)

    # Each level has its layers and a sampler on the way down; on the way up the sampler joins the last layer, behind
    # its transformer if it has one.
    way, level, kind, number, rest = block[1], int(block[2]), block[3], int(block[4]), block[5] or ""
    layers = config.layers_per_block + 1
    if kind == "downsamplers":
        return _join(f"input_blocks.{layers * (level + 1)}.0.op", rest.removeprefix("conv").removeprefix("."))
    if kind == "upsamplers":
        attends = config.cross_attention[-1 - level]
        return _join(f"output_blocks.{layers * level + layers - 1}.{2 if attends else 1}", rest)
    place = (
        f"input_blocks.{1 + layers * level + number}" if way == "down" else f"output_blocks.{layers * level + number}"
    )
    return _join(f"{place}.0", _in_resnet(rest)) if kind == "resnets" else _join(f"{place}.1", rest)


def ema_name(name: str) -> str:
    """Return what a file calls the average of a parameter of the UNet, whose name there starts with UNET."""
    return EMA + name.removeprefix("model.").replace(".", "")


def vae_name(name: str, levels: int) -> str:
    """Return what a file calls a parameter of the autoencoder, behind the prefix VAE.

    Args:
        name: as diffusers' AutoencoderKL has it.
        levels: the autoencoder's resolution levels; in a file the decoder counts them from the finest.
    """
    block = VAE_BLOCK.fullmatch(name)
    if block is not None:
        half, level, kind, number, rest = block[1], int(block[2]), block[3], block[4], block[5]
        place = f"{half}.{level if half == 'encoder.down' else levels - 1 - level}"
        if kind == "resnets":
            return f"{place}.block.{number}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{place}.{kind.removesuffix('rs')}.{rest}"
    half, _, inner = name.partition(".")
    if half not in ("encoder", "decoder"):  # the two convolutions around the latents
        return name
    head, rest = _split(inner, VAE_ENDS)
    if "attentions" in head:
        module, leaf = _split(rest, VAE_ATTENTION)
        rest = _join(VAE_ATTENTION[module], leaf)
    return f"{half}.{_join(VAE_ENDS.get(head, head), rest)}"


def text_name(name: str) -> str:
    """Return what a file calls a parameter of CLIP's text model, behind the prefix TEXT."""
    return TEXT_MODEL + name.removeprefix(TEXT_MODEL)


def _split(name: str, heads: dict[str, str]) -> tuple[str, str]:
    """Return the one of `heads` that a name starts with, and what follows it; its first part where none does."""
    for head in heads:
        if name == head or name.startswith(f"{head}."):
            return head, name[len(head) + 1 :]
    head, _, rest = name.partition(".")
    return head, rest


def _in_resnet(rest: str) -> str:
    """Return what a file calls something in a residual block of the UNet; an empty name stays one."""
    module, leaf = _split(rest, RESNET)
    return _join(RESNET.get(module, module), leaf)


def _join(head: str, rest: str) -> str:
    """Return two parts of a name with a dot between them, where there are two."""
    return f"{head}.{rest}" if rest else head
