"""Single files of Stable Diffusion: the networks in one .safetensors or .ckpt of the ldm layout, by diffusers' names.

Every tensor is taken bit for bit, in its dtype; only the autoencoder's attention loses two dimensions of size 1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from ..config.model import UNetConfig
from ..distributed import log
from ..errors import CheckpointError
from .ldm_names import EMA, TEXT, TEXT_MODEL, UNET, VAE, ema_name, text_name, unet_name, vae_name
from .state_dict import require_fit, shapes
from .torch_file import WeightFile
from .weight_kinds import describe, require_flat

COUNTERS = ("model_ema.decay", "model_ema.num_updates")
"""Keys of the average that are no weights."""
PREDICTION = "modelspec.prediction_type"
"""The text in a safetensors header that says what a checkpoint predicts: "epsilon" or "v"."""


class FlatUNet(NamedTuple):
    """The 2-D UNet of a file or folder."""

    state: dict[str, Tensor]
    """By diffusers' names."""
    unused: tuple[str, ...] = ()
    """Other keys of the file: of its encoders, of constants, of the weights that were not asked for."""
    averaged: bool = False
    """Whether these are the averaged weights of a file."""


def is_single_file(file: WeightFile) -> bool:
    """Return whether a file is to be read, or refused, as a 2-D checkpoint, and not as one of LaVie's."""
    if file.content is None:
        return True
    known = describe(shapes(file.tensors))
    return not known.startswith(("a video network", "nothing"))


def require_unet(file: WeightFile, config: UNetConfig, *, extract_ema: bool) -> bool:
    """Check by a few keys and shapes that a file holds the 2-D UNet that a video network starts from.

    Args:
        file: the file, read.
        config: the video network.
        extract_ema: whether averaged weights are wanted where the file has them.

    Returns:
        Whether they are wanted, and the file has them.

    Raises:
        CheckpointError: the file is something else; the line says what.
    """
    # The encoders in it have keys that look like those of other kinds of files.
    sizes = shapes(file.tensors)
    own = {name: size for name, size in sizes.items() if not name.startswith((VAE, "cond_stage_model.", EMA))}
    plain = any(name.startswith(UNET) for name in sizes)
    averaged = any(name.startswith(EMA) and name not in COUNTERS for name in sizes)
    if plain or not averaged:
        if not plain and "conv_in.weight" in sizes:
            raise CheckpointError(
                f"{file.path} holds the names of a folder in diffusers' format: give the folder, with config.json in it"
            )
        require_flat(own or sizes, config, str(file.path), UNET)
    elif not extract_ema:
        raise CheckpointError(f"{file.path} is {describe(sizes)}: set extract_ema to take them")
    return extract_ema and averaged


def read_unet(file: WeightFile, wanted: Mapping[str, Size], config: UNetConfig, *, extract_ema: bool) -> FlatUNet:
    """Return the UNet of a file.

    Args:
        file: the file, read.
        wanted: the shapes of the spatial parameters of the video network, by name.
        config: the video network; its conv_in may have channels of a condition, which the file's lacks.
        extract_ema: whether the averaged weights are taken, where the file has them.

    Raises:
        CheckpointError: the file is no such checkpoint, or a key is missing, unexpected, or of another shape.
    """
    averaged = require_unet(file, config, extract_ema=extract_ema)
    if file.metadata.get(PREDICTION) in ("v", "v_prediction"):
        log.warning(f"{file.path} says that it predicts v: its weights suit a run with prediction_type v_prediction")

    # Every parameter under the file's name, and every key of the UNet for a parameter.
    theirs = {name: UNET + unet_name(name, config) for name in wanted}
    if averaged:
        theirs = {name: ema_name(key) for name, key in theirs.items()}
    prefix = EMA if averaged else UNET
    found = {key: t for key, t in file.tensors.items() if key.startswith(prefix) and key not in COUNTERS}
    fitting = {theirs[name]: size for name, size in wanted.items()}
    first = theirs["conv_in.weight"]
    if first in found and found[first].ndim == 4 and found[first].shape[1] < fitting[first][1]:
        fitting[first] = Size((fitting[first][0], found[first].shape[1], *fitting[first][2:]))
    require_fit(found, fitting, str(file.path))
    state = {name: _plain(found[key], key, file) for name, key in theirs.items()}
    return FlatUNet(state, tuple(sorted(file.tensors.keys() - found.keys())), averaged)


def read_vae(file: WeightFile, vae: Any) -> dict[str, Tensor] | None:
    """Return the autoencoder of a file, None if it has none.

    Args:
        file: the file, read.
        vae: diffusers' AutoencoderKL of the same sizes; it may be on the meta device.

    Raises:
        CheckpointError: a key is missing, or of another shape.
    """
    levels = len(vae.config.block_out_channels)
    return _part(file, VAE, lambda name: vae_name(name, levels), shapes(vae.state_dict()), "vae/config.json")


def read_text_model(file: WeightFile, model: Any) -> dict[str, Tensor] | None:
    """Return CLIP's text model of a file, by the names that every version of transformers reads; None if it has none.

    Args:
        file: the file, read.
        model: transformers' CLIPTextModel of the same sizes; it may be on the meta device.

    Raises:
        CheckpointError: a key is missing, or of another shape.
    """
    wanted = {text_name(name): size for name, size in shapes(model.state_dict()).items() if "position_ids" not in name}
    bare = not any(name.startswith(TEXT + TEXT_MODEL) for name in file.tensors)
    name_in_file = (lambda name: name.removeprefix(TEXT_MODEL)) if bare else text_name
    return _part(file, TEXT, name_in_file, wanted, "text_encoder/config.json")


def _part(
    file: WeightFile, prefix: str, name_in_file: Callable[[str], str], wanted: Mapping[str, Size], advice: str
) -> dict[str, Tensor] | None:
    """Return the tensors of an encoder by the names of `wanted`, None if the file has no key of its prefix."""
    if not any(name.startswith(prefix) for name in file.tensors):
        return None
    state = {}
    for name in wanted:
        key = prefix + name_in_file(name)
        if key in file.tensors:
            tensor = _plain(file.tensors[key], key, file)
            # A 1x1 convolution of the file is a linear layer here.
            alike = tensor.ndim == 4 and len(wanted[name]) == 2 and tensor.shape[2:] == (1, 1)
            state[name] = tensor[:, :, 0, 0] if alike else tensor
    require_fit(state, wanted, str(file.path), advice)
    return state


def _plain(tensor: Tensor, key: str, file: WeightFile) -> Tensor:
    """Return a tensor of a stranger, without gradient; CheckpointError unless it is of ordinary numbers."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not (dense and tensor.is_floating_point() and tensor.element_size() > 1):
        raise CheckpointError(
            f"{file.path}: {key} is {tensor.dtype}, {tensor.layout}, on {tensor.device}: wanted float32, float16 or "
            "bfloat16"
        )
    return tensor.detach()
