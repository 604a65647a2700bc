"""OpenAI's CLIP files, TorchScript archives whose tensors are read as plain weights: no code in them is run.

An archive is a zip: data.pkl is the tree of modules, data/ the storages, code/ and constants.pkl the program. Without
the program it is what `torch.load` reads with weights_only, once its own classes are known to it as empty ones.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...files import sha256_of

KNOWN = {
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
"""The SHA-256 of OpenAI's files of vision transformers (they stand in the files' own addresses)."""
PROGRAM = re.compile(r"[^/]+/(code/.*|constants\.pkl|constants/.*|traced_inputs.*)")
"""The entries of an archive that are no weights."""
MODULES = ("__torch__.", "torch.jit._pickle.")
"""Beginnings of the names that a program's own classes have in data.pkl."""
HEAD_WIDTH = 64
"""Channels of an attention head in every CLIP of OpenAI."""
RENAMED = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""OpenAI's names and transformers', as regular expressions that are applied in this order."""
TRANSPOSED = ("visual.proj", "text_projection")
"""Matrices that OpenAI multiplies from the right."""
SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that stand among the weights of an archive."""


class _Empty:
    """A module of an archive: its attributes are its weights and its parts."""

    def __init__(self, *values: Any) -> None:
        """Take whatever a class of the archive was made with."""


def require_known(path: Path) -> str:
    """Return the name of the network in one of OpenAI's files.

    Raises:
        CheckpointError: the file has none of the known checksums: it is cut short, or holds another network.
    """
    digest = sha256_of(path)
    for name, known in KNOWN.items():
        if digest == known:
            return name
    raise CheckpointError(
        f"--weights {path}: its SHA-256 is {digest[:16]}..., which none of OpenAI's files ({', '.join(KNOWN)}) has: "
        "download it again; give another CLIP as a folder of transformers"
    )


def read_archive(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive by their names, in their dtypes; nothing in it is run.

    Raises:
        CheckpointError: the file is no archive, or its data.pkl names anything but modules and tensors.
    """
    try:
        plain = io.BytesIO()
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as weights:
            for name in archive.namelist():
                if not PROGRAM.fullmatch(name):
                    weights.writestr(name, archive.read(name))
        plain.seek(0)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(plain)
        foreign = [name for name in names if not name.startswith(MODULES)]
        if foreign:
            raise ValueError(f"it names {foreign[0]}")
        plain.seek(0)
        classes: Any = [(type("Empty", (_Empty,), {}), name) for name in names]
        with torch.serialization.safe_globals(classes):
            root = torch.load(plain, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, the unpickler and torch each have their own
        raise CheckpointError(f"--weights {path}: no TorchScript archive of weights: {error}") from None
    return dict(_tensors(root))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors below a module by their dotted names."""
    for name, value in vars(module).items() if isinstance(module, _Empty) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def to_transformers(state: dict[str, Tensor], source: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and the state dict of transformers' CLIPModel for OpenAI's weights, in float32.

    Args:
        state: OpenAI's names, of a CLIP whose image side is a vision transformer.
        source: where they come from, for the message.

    Raises:
        CheckpointError: a weight that tells a size is missing, as in the ResNets of OpenAI.
    """
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        vocabulary, text_width = state["token_embedding.weight"].shape
        context, projection = len(state["positional_embedding"]), state["text_projection"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{source}: no {error}: wanted OpenAI's CLIP with a vision transformer") from None

    def layers(prefix: str) -> int:
        """Return the number of blocks below a prefix."""
        return len({name for name in state if re.fullmatch(rf"{prefix}\.\d+\.ln_1\.weight", name)})

    def tower(width: int, count: int, **more: int) -> dict[str, Any]:
        """Return the config of one side; what it leaves out, such as the activation, has OpenAI's value by default."""
        sizes = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=count)
        heads = dict(num_attention_heads=width // HEAD_WIDTH, projection_dim=projection)
        return sizes | heads | more

    # The last token of the vocabulary ends a text.
    text = dict(vocab_size=vocabulary, max_position_embeddings=context, eos_token_id=vocabulary - 1)
    config = {
        "projection_dim": projection,
        "vision_config": tower(
            width, layers(r"visual\.transformer\.resblocks"), patch_size=patch, image_size=patch * grid
        ),
        "text_config": tower(text_width, layers(r"transformer\.resblocks"), **text),
    }
    return config, dict(_renamed({name: value.float() for name, value in state.items() if name not in SIZES}))


def _renamed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by transformers' names: queries, keys and values apart, and matrices as nn.Linear has them."""
    for name, value in state.items():
        theirs = name
        for pattern, word in RENAMED:
            theirs = re.sub(pattern, word, theirs)
        if name in TRANSPOSED:
            yield theirs, value.T.contiguous()
        elif ".in_proj_" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                yield theirs.replace("in_proj_", f"{part}_proj."), rows.clone()
        else:
            yield theirs, value
