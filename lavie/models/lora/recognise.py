"""What a file is that is no LoRA which fits here: told by its keys, its shapes and what it says of itself."""

import re
from collections.abc import Iterable, Mapping

from torch import Size

from ...errors import CheckpointError

WANTED = "wanted a LoRA of Stable Diffusion 1.x, or of this trainer"
OTHER_ADAPTERS = (
    (r"\.(dora_scale|lora_magnitude_vector.*)$", "DoRA"),
    (r"\.(oft_blocks|oft_diag|oft_R(\..*)?|oft_r(\..*)?)$|\.boft_", "OFT"),
    (r"\.on_input$|\.ia3_l", "IA3"),
    (r"\.(a1|a2|b1|b2)\.weight$", "GLoRA"),
    (r"\.lora_E(\.|$)", "AdaLoRA"),
    (r"\.vera_lambda_", "VeRA"),
)
"""The keys that betray an adapter of a kind that is not read, and its name."""
OTHER_NETWORKS = (
    (r"^(lora_te2_|text_encoder_2\.)|^(lora_)?unet[._].*transformer_blocks[._][1-9]", "Stable Diffusion XL"),
    (r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]", "Flux"),
    (r"(^|[._])joint_blocks[._]|^lora_te3_", "Stable Diffusion 3"),
    (r"motion_modules[._]", "AnimateDiff's motion module"),
    (r"^(lora_)?transformer[._]|^diffusion_model\.(blocks|layers)\.", "a transformer in place of a UNet"),
)
"""The keys that betray a LoRA of another network, and the network's name."""
ADAPTER = re.compile(r"lora|\.(hada|lokr)_|\.(alpha|diff|diff_b)$")
"""What stands in the keys of adapters, and not in those of whole networks."""
OTHER_FILES = (
    (r"^(model\.diffusion_model|model_ema|first_stage_model|cond_stage_model|conditioner)\.", "a whole checkpoint"),
    (r"^(control_model|controlnet_cond_embedding|controlnet_down_blocks)\.", "a ControlNet"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^(module\.|ema\.)?(conv_in|time_embed\w*|input_blocks|down_blocks)\.[\w.]*(weight|bias)$", "a UNet"),
    (r"^(encoder|decoder|quant_conv|post_quant_conv)\.", "an autoencoder"),
    (r"^text_model\.(encoder|embeddings)\.[\w.]*(weight|bias)$", "a text encoder"),
)
"""The keys of files that are no adapters, and what these are. They are looked for where no key is a LoRA's."""
SD1 = re.compile(r"(?i)(sd|stable[ _-]?diffusion)[ _-]*v?1")
"""How programs write that a LoRA is of Stable Diffusion 1.x."""
EMBEDDING = re.compile(r"string_to_param.*|emb_params|clip_[lg]")
"""Keys of textual inversions."""
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""The text features that networks read, by which a LoRA of one is known."""


def refuse_adapters(source: str, keys: Iterable[str]) -> None:
    """Raise CheckpointError for a kind of adapter that is not read, or one of another network."""
    for key in keys:
        for pattern, kind in OTHER_ADAPTERS:
            if re.search(pattern, key):
                raise CheckpointError(f"{source} is {_article(kind)} {kind} (key {key}), which is not read: {WANTED}")
        for pattern, network in OTHER_NETWORKS if ADAPTER.search(key) else ():
            if re.search(pattern, key):
                raise CheckpointError(f"{source} is a LoRA of {network} (key {key}): {WANTED}")


def refuse_said(source: str, metadata: Mapping[str, str]) -> None:
    """Raise CheckpointError if a file says of itself that it is of another network."""
    base, architecture = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    if metadata.get("ss_v2") == "True" or base.startswith("sd_v2"):
        raise CheckpointError(f"{source} is a LoRA of Stable Diffusion 2 (ss_base_model_version {base!r}): {WANTED}")
    if base and not SD1.match(base):
        raise CheckpointError(f"{source} is a LoRA of another network (ss_base_model_version {base!r}): {WANTED}")
    if architecture and not architecture.startswith("stable-diffusion-v1"):
        raise CheckpointError(
            f"{source} is a LoRA of another network (modelspec.architecture {architecture!r}): {WANTED}"
        )
    if metadata.get("modelspec.prediction_type", "").startswith("v"):
        raise CheckpointError(
            f"{source} is a LoRA of a network that predicts v (modelspec.prediction_type): wanted one that predicts "
            "the noise, as Stable Diffusion 1.4 and 1.5 do"
        )


def what_else(keys: Mapping[str, Size]) -> str:
    """Return what a file is that has no key of a LoRA.

    Args:
        keys: the shapes of its tensors by key.
    """
    for key in keys:
        if EMBEDDING.fullmatch(key):
            return f"an embedding of textual inversion (key {key})"
    for key in keys:
        for pattern, kind in OTHER_FILES:
            if re.search(pattern, key):
                return f"{kind} (key {key})"
    if 0 < len(keys) <= 4 and all(len(shape) in (1, 2) and "." not in key for key, shape in keys.items()):
        return f"an embedding of textual inversion (token {next(iter(keys))})"
    return f"no LoRA (first key {next(iter(keys))})" if keys else "a file without tensors"


def refuse_width(source: str, width: int, network: int) -> None:
    """Raise CheckpointError if a LoRA is of a network that reads other text features.

    Args:
        source: the file.
        width: the features that the LoRA's network reads.
        network: those that our network reads.
    """
    if width == network:
        return
    of = WIDTHS.get(width, "another network")
    ours = "; a vsr network is made of the x4 upscaler, for which it is not" if network == 1024 else ""
    raise CheckpointError(
        f"{source} is a LoRA of {of}, which reads {width} text features, and the network here reads {network}{ours}"
    )


def _article(word: str) -> str:
    """Return the indefinite article of an adapter's name."""
    return "an" if word[0] in "AEIO" else "a"
