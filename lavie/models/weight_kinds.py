"""What a file of weights is, told by its keys and shapes, so that a wrong one is refused by a line that names it."""

import re
from collections.abc import Mapping

from torch import Size

from ..config.model import UNetConfig
from ..errors import CheckpointError
from .ldm_names import EMA, UNET, VAE

LORA = re.compile(
    r"lora[_.](down|up|A|B)\b|_lora\.|\.lora\.|lora_linear_layer|\.(hada|lokr|oft)_|dora_scale|:(up|down)$"
)
"""What a key of a LoRA or of one of its relatives holds."""
SIGNS = (
    (LORA, "a LoRA, which changes a checkpoint and is none"),
    (re.compile(r"^(emb_params|string_to_param\..*|clip_[lg])$"), "a textual-inversion embedding, not a checkpoint"),
    (re.compile(r"^control_model\.|controlnet_|^input_hint_block\."), "a ControlNet, not a checkpoint"),
    (re.compile(r"motion_modules?\.|temporal_transformer\."), "a motion module of AnimateDiff, not a checkpoint"),
    (re.compile(r"\.attn_temp(oral)?\."), "a video network of LaVie, not a 2-D checkpoint"),
    (re.compile(r"(^|\.)joint_blocks\."), "a Stable Diffusion 3 checkpoint"),
    (re.compile(r"(^|\.)double_blocks\."), "a Flux checkpoint"),
)
"""What tells kinds of files by a single key, and what they are called. The first that fits counts."""
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the refiner of Stable Diffusion XL"}
WIDTHS |= {2048: "Stable Diffusion XL"}
"""Checkpoints by the width of the text features that they read."""
CHANNELS = {5: "depth-to-image", 7: "upscaling", 8: "image-editing (InstructPix2Pix)", 9: "inpainting"}
"""Checkpoints by the channels of their input: 4 of the latents, and those of a condition."""
LARGEST_EMBEDDING = 16
"""Tensors in a file of an embedding, at most; each has a vector per token."""


def describe(shapes: Mapping[str, Size]) -> str:
    """Return what a file or folder of weights is, in words that can follow "is"."""
    for sign, kind in SIGNS:
        if key := next((name for name in shapes if sign.search(name)), None):
            return f"{kind} (key {key[:80]!a})"
    if _is_embedding(shapes):
        return "a textual-inversion embedding, not a checkpoint"

    channels, width = unet_sizes(shapes)
    if channels is not None:
        name = WIDTHS.get(width or 0, "an unknown kind")
        purpose = CHANNELS.get(channels, "")
        what = f"{_article(purpose)} checkpoint of {name}" if purpose else f"a checkpoint of {name}"
        return f"{what} ({channels} channels in, text {width or 0} wide)"
    if any(name.startswith(EMA) for name in shapes):
        return "a checkpoint that holds averaged weights alone (keys model_ema.)"
    if any(name.removeprefix(VAE).startswith(("encoder.", "decoder.")) for name in shapes):
        return "an autoencoder, without a UNet"
    if any("text_model." in name for name in shapes):
        return "a text encoder, without a UNet"
    some = ", ".join(ascii(name[:40]) for name in sorted(shapes)[:3])
    return f"nothing that is known here: {len(shapes)} tensors{f', as {some}' if some else ''}"


def require_flat(shapes: Mapping[str, Size], config: UNetConfig, source: str, called: str = "") -> None:
    """Check by a few shapes that these are weights of the 2-D UNet that a video network starts from.

    Args:
        shapes: by the names of a single file, or by diffusers' in a folder of the UNet alone.
        config: the video network, which says what is wanted.
        source: what the weights are called in errors.
        called: the prefix of the UNet's keys in the file; "" for a folder.

    Raises:
        CheckpointError: they are something else; the line says what.
    """
    channels, width = unet_sizes({name: size for name, size in shapes.items() if name.startswith(called)})
    # An upscaler's condition was in the 2-D network already; other conditions join it here, with zeros.
    takes = config.in_channels if config.num_noise_levels else config.out_channels
    alien = next((name for name in shapes if any(sign.search(name) for sign, _ in SIGNS)), None)
    if alien is None and channels == takes and width in (None, config.cross_attention_dim):
        return
    name = WIDTHS.get(config.cross_attention_dim, "a network") if takes == 4 else "a network"
    raise CheckpointError(
        f"{source} is {describe(shapes)}: wanted {name} with {takes} channels in and text "
        f"{config.cross_attention_dim} wide"
    )


def unet_sizes(shapes: Mapping[str, Size]) -> tuple[int | None, int | None]:
    """Return the input channels of a 2-D UNet and the width of its text features; None for what there is none of.

    Args:
        shapes: by the names of a single file, or by diffusers'.
    """
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", shapes.get("conv_in.weight"))
    widths = (size for name, size in shapes.items() if name.endswith(".attn2.to_k.weight") and len(size) == 2)
    width = next(widths, None)
    channels = first[1] if first is not None and len(first) == 4 else None
    return channels, width[1] if width else None


def _is_embedding(shapes: Mapping[str, Size]) -> bool:
    """Return whether these are vectors of tokens: few tensors, as wide as text features, with the names of words."""
    wide = all(len(size) in (1, 2) and size[-1] in WIDTHS for size in shapes.values())
    words = not any(name.endswith((".weight", ".bias")) for name in shapes)
    return 0 < len(shapes) <= LARGEST_EMBEDDING and wide and words


def _article(word: str) -> str:
    """Return a word behind "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
