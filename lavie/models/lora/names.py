"""The modules that a LoRA may change, and what its kinds of files call them.

Names of the UNet are diffusers', which are those of VideoUNet's spatial part; names of the text encoder are
transformers' without the leading `text_model.`, which older versions have and newer ones do not.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Size, nn

from ..trainable import is_temporal
from ..unet import VideoUNet

LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
"""The kinds of modules that have a weight which a file can change."""
TEXT_ROOT = "text_model."
FLAT_TEXT = re.compile(
    r"(?:text_model_)?(?:encoder_layers_(?P<layer>\d+)_(?:self_attn_(?P<projection>[qkv]|out)_proj|mlp_(?P<mlp>fc[12])"
    r"|(?P<norm>layer_norm[12]))|(?P<last>final_layer_norm))"
)
"""A module of CLIP's text model in kohya's files, with underscores for dots."""
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""The layers of a residual block by our names, and by those of the original latent diffusion code (ldm)."""
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The layers around the blocks by our names and by ldm's."""


def spatial_modules(network: VideoUNet) -> dict[str, nn.Module]:
    """Return the layers of the spatial part by name: those that a 2-D UNet has too."""
    return {name: module for name, module in _layers(network) if not is_temporal(f"{name}.weight")}


def text_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of transformers' CLIP text model by name, without a leading `text_model.`."""
    return {name.removeprefix(TEXT_ROOT): module for name, module in _layers(model)}


def _layers(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers under `root` that have a weight, with their names."""
    return ((name, module) for name, module in root.named_modules() if isinstance(module, LAYERS))


def weight_shape(module: nn.Module) -> Size:
    """Return the shape of a layer's weight, by the layer's sizes: what holds the weight need not be at hand."""
    if isinstance(module, nn.Linear):
        return Size((module.out_features, module.in_features))
    if isinstance(module, nn.Conv2d):
        return Size((module.out_channels, module.in_channels // module.groups, *module.kernel_size))
    assert isinstance(module, nn.LayerNorm | nn.GroupNorm)
    return Size(module.normalized_shape) if isinstance(module, nn.LayerNorm) else Size((module.num_channels,))


def parameter_shapes(modules: Mapping[str, nn.Module]) -> dict[str, Size]:
    """Return the shapes of the weights and biases of layers, by the names that they have in a plain state dict."""
    found = {}
    for name, module in modules.items():
        shape = weight_shape(module)
        found[f"{name}.weight"] = shape
        if module.bias is not None:
            found[f"{name}.bias"] = shape[:1]
    return found


def flat_names(names: Iterable[str], layers_per_block: int) -> dict[str, str]:
    """Return the modules of a UNet by what kohya's files may call them: diffusers' or ldm's names, with underscores."""
    names = list(names)
    table = {name.replace(".", "_"): name for name in names}
    ldm = {ldm_name(name, layers_per_block, names).replace(".", "_"): name for name in names}
    return ldm | table


def ldm_name(name: str, layers_per_block: int, names: Iterable[str]) -> str:
    """Return what the original latent diffusion code calls a module of a UNet.

    Args:
        name: diffusers' name.
        layers_per_block: residual blocks of each level on the way down.
        names: all of the UNet's, which say which levels have transformers.
    """
    if name in OUTER:
        return OUTER[name]
    block, *parts = name.split(".")
    if block == "mid_block":
        kind, layer = parts[0], ".".join(parts[2:])
        return f"middle_block.{2 * int(parts[1])}.{RESNET[layer]}" if kind == "resnets" else f"middle_block.1.{layer}"
    level, kind, number, layer = int(parts[0]), parts[1], int(parts[2]), ".".join(parts[3:])
    per_level = layers_per_block + 1
    if block == "down_blocks":
        place = 1 + level * per_level + (layers_per_block if kind == "downsamplers" else number)
        prefix = f"input_blocks.{place}"
    else:
        place = level * per_level + (layers_per_block if kind == "upsamplers" else number)
        prefix = f"output_blocks.{place}"
    if kind == "downsamplers":
        return f"{prefix}.0.op"
    if kind == "upsamplers":
        attends = any(other.startswith(f"{block}.{level}.attentions.") for other in names)
        return f"{prefix}.{2 if attends else 1}.conv"
    return f"{prefix}.0.{RESNET[layer]}" if kind == "resnets" else f"{prefix}.1.{layer}"


def text_name(flat: str) -> str | None:
    """Return the module of CLIP's text model that a kohya file calls `flat`; None if it is none."""
    match = FLAT_TEXT.fullmatch(flat)
    if match is None:
        return None
    if match["last"]:
        return match["last"]
    inner = f"self_attn.{match['projection']}_proj" if match["projection"] else match["norm"] or f"mlp.{match['mlp']}"
    return f"encoder.layers.{match['layer']}.{inner}"


def numbered_unet(names: Iterable[str]) -> list[str]:
    """Return the layers of a UNet that the files of 2022 number, in their order.

    The blocks go down, up, and then through the middle; in each transformer block come the four layers of attn1, the
    first of the feed-forward, and the four of attn2.
    """
    names = list(names)
    stages = ("down_blocks", "up_blocks", "mid_block")
    blocks = [name.removesuffix(".attn1.to_q") for name in names if name.endswith(".attn1.to_q")]
    blocks.sort(key=lambda name: stages.index(name.split(".")[0]))
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    layers = [*(f"attn1.{part}" for part in attention), "ff.net.0.proj", *(f"attn2.{part}" for part in attention)]
    return [f"{block}.{layer}" for block in blocks for layer in layers]


def numbered_text(number: int) -> str:
    """Return the layer of CLIP's text model of a number in the files of 2022: keys, values, queries, output."""
    layer, place = divmod(number, 4)
    return f"encoder.layers.{layer}.self_attn.{('k_proj', 'v_proj', 'q_proj', 'out_proj')[place]}"
