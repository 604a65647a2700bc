"""Weights in and out of the video UNet, strict both ways: 2-D UNets, LaVie's released files, our folders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Size, Tensor

from ..config.load import validate
from ..config.model import UNetConfig
from ..distributed import log
from ..errors import CheckpointError
from ..files import apply_umask
from ..json_text import parse_json
from ..manifest import require_whole_network
from ..run_folder import LORA, NETWORK, checkpoints, newest_checkpoint
from .released import from_released, released_state, require_stage, to_released, unet_config
from .single_file import FlatUNet, is_single_file, read_unet
from .state_dict import StateDict, require_fit, shapes
from .torch_file import WeightFile, read_weight_file, safetensors_fault
from .trainable import is_temporal
from .unet import VideoUNet
from .weight_kinds import require_flat

RELATIVE_BIAS = ".time_rel_pos_bias."
WEIGHTS_NAME, CONFIG_NAME = "diffusion_pytorch_model.safetensors", "config.json"
FLAT = "UNet2DConditionModel"
"""The class that diffusers gives in the config of a 2-D UNet."""


@dataclass(frozen=True)
class LoadReport:
    """What loading did with each parameter, by name."""

    source: str
    """The file or folder that was read."""
    loaded: tuple[str, ...]
    """Parameters that have the values of the source."""
    fresh: tuple[str, ...]
    """Parameters of the network that keep their initial values: the temporal path of an inflated 2-D UNet."""
    unused: tuple[str, ...]
    """Keys of the source that the network has no parameter for: constants, checked to be equal, a bias that is left
    out, and in a single file what is not of its UNet."""
    averaged: bool = False
    """Whether the averaged weights of a single file were taken (extract_ema)."""

    def __str__(self) -> str:
        kind = ", averaged weights" if self.averaged else ""
        counts = f"{len(self.loaded)} tensors loaded, {len(self.fresh)} fresh, {len(self.unused)} unused"
        return f"{self.source}: {counts}{kind}"


def load_official(
    stage: str,
    state_dict: StateDict,
    config: UNetConfig | Mapping[str, Any],
    *,
    source: str = "released weights",
    advice: str = "the section model",
    as_stored: bool = False,
) -> VideoUNet:
    """Return the released network of a stage.

    Args:
        stage: base, interpolation or vsr.
        state_dict: its weights by their released names.
        config: its config, ours or in diffusers' style.
        source: what the weights are called in errors.
        advice: what an error says to check.
        as_stored: whether parameters share the memory and the dtypes of `state_dict`; default: float32 copies.

    Raises:
        CheckpointError: the stage is unknown, or a key is missing, unexpected, or of another shape.
    """
    require_stage(stage)
    config = config if isinstance(config, UNetConfig) else unet_config(stage, config)
    if not as_stored:
        network = VideoUNet(config)
        load_released(network, state_dict, source, advice)
        return network
    with torch.device("meta"):
        network = VideoUNet(config)
    weights, _ = from_released(network, state_dict, source, advice)
    network.load_state_dict(weights, assign=True)
    return network


def to_official(stage: str, network: VideoUNet) -> dict[str, Tensor]:
    """Return the network's state dict under the released names, rotary frequencies included."""
    require_stage(stage)
    return to_released(network, network.state_dict())


def load_stable_diffusion(
    unet_state_dict: StateDict, config: UNetConfig | Mapping[str, Any], *, source: str = "2-D UNet"
) -> VideoUNet:
    """Return a video UNet with the weights of a 2-D UNet; its temporal path starts fresh, as an exact identity.

    Args:
        unet_state_dict: every spatial parameter; conv_in may lack the channels of a condition.
        config: the video network's, ours or in diffusers' style.
        source: what the weights are called in errors.

    Raises:
        CheckpointError: a key is missing, unexpected, or of another shape.
    """
    network = VideoUNet(config if isinstance(config, UNetConfig) else unet_config("base", config))
    inflate(network, unet_state_dict, source)
    return network


def load_released(
    network: VideoUNet, state_dict: StateDict, source: str = "released weights", advice: str = "the section model"
) -> LoadReport:
    """Copy a released state dict, which holds every parameter and the rotary frequencies, into the network."""
    weights, constants = from_released(network, state_dict, source, advice)
    _tell_statistics(network, "pooled", source)
    return LoadReport(source, _copy(network, weights, set(weights), source), (), tuple(sorted(constants)))


def inflate(network: VideoUNet, state_dict: StateDict, source: str = "2-D UNet") -> LoadReport:
    """Copy a 2-D UNet's state dict into the spatial part: every spatial parameter must be in it, and nothing else.

    A conv_in without the channels of a condition is extended, as in `extend`.
    """
    spatial = set(spatial_shapes(network))
    if _lacks_condition(network, state_dict):
        state_dict = _with_condition(network, state_dict, source)
    loaded = _copy(network, state_dict, spatial, source)
    fresh = tuple(sorted(set(network.state_dict()) - spatial))
    return LoadReport(source, loaded, fresh, ())


def extend(network: VideoUNet, state_dict: StateDict, source: str = "base network") -> LoadReport:
    """Copy a network without condition channels into one with them.

    The new channels of conv_in start at zero, so that the condition is ignored at first, as the released interpolation
    network started from the base network. A base network that takes frames starts so too.
    A relative bias that the network does not have is left out: it was learned for another frame rate and length.
    """
    weights = _with_condition(network, state_dict, source)
    unused = () if network.config.relative_bias else tuple(sorted(name for name in weights if RELATIVE_BIAS in name))
    loaded = _copy(network, {n: w for n, w in weights.items() if n not in unused}, set(network.state_dict()), source)
    return LoadReport(source, loaded, (), unused)


def _lacks_condition(network: VideoUNet, state: StateDict) -> bool:
    """Return whether `state` is of a network that reads latents alone, and `network` reads a condition beside them."""
    kernel, config = state.get("conv_in.weight"), network.config
    return kernel is not None and kernel.ndim == 4 and kernel.shape[1] == config.out_channels < config.in_channels


def _with_condition(network: VideoUNet, state: StateDict, source: str) -> dict[str, Tensor]:
    """Return `state` with zeros as the kernel of the input channels that it does not have: those of the condition.

    Raises:
        CheckpointError: there is no such kernel, or it reads another condition, whose channels mean something else.
    """
    first, kernel = network.conv_in.weight, state.get("conv_in.weight")
    if kernel is None or kernel.shape[:1] + kernel.shape[2:] != first.shape[:1] + first.shape[2:]:
        raise CheckpointError(
            f"{source}: no conv_in.weight that {tuple(first.shape)} could extend: check section model"
        )
    if not _lacks_condition(network, state):
        raise CheckpointError(
            f"{source}: its network reads {kernel.shape[1]} channels, those of another condition: wanted "
            f"{network.config.out_channels}, a base network's, to extend to model.in_channels {first.shape[1]}"
        )
    condition = kernel.new_zeros(len(first), first.shape[1] - kernel.shape[1], *first.shape[2:])
    return {**state, "conv_in.weight": torch.cat([kernel, condition], 1)}


def spatial_shapes(network: VideoUNet) -> dict[str, Size]:
    """Return the shapes of the parameters that the 2-D UNet has too, by their names."""
    return {name: size for name, size in shapes(network.state_dict()).items() if not is_temporal(name)}


def initialize(network: VideoUNet, path: str | Path, *, extract_ema: bool = False) -> LoadReport:
    """Start `network` from the weights at `path`, which may be one of four things:

    1. a released LaVie .pt file: a dict with key "ema", or a plain state dict; the released base network is extended to
       one that takes frames;
    2. a single file of Stable Diffusion, .safetensors or .ckpt, in the ldm layout;
    3. a run's folder, one of its checkpoints, an exported folder or a network folder (config.json with our class); a
       network of fewer input channels is extended;
    4. a Stable Diffusion folder in diffusers' format, or its unet/ folder.

    Args:
        network: its parameters are overwritten.
        path: of the weights.
        extract_ema: whether the averaged weights of a single file are taken; the report says whether it had some.

    Raises:
        CheckpointError: the path holds anything else, or weights that do not fit.
    """
    path = Path(path)
    if path.is_file():
        return _initialize_from_file(network, read_weight_file(path), extract_ema)

    # A run's folder means its newest checkpoint; a folder of several models, the network in it.
    if checkpoints(path):
        path = newest_checkpoint(path)
    require_whole_network(path)
    folder = path / NETWORK if (path / NETWORK).is_dir() else path
    if (path / LORA).is_dir() and folder == path:
        raise CheckpointError(
            f"{path} holds adapters, and the weights that they change lie elsewhere: `lavie export {path} OUT` joins "
            "them, start from OUT"
        )
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{path}: wanted a .pt file, a checkpoint folder or a Stable Diffusion folder; "
            f"found no {folder / CONFIG_NAME}"
        )

    # The class in config.json says which of the kinds of folders it is.
    kind = read_json(folder / CONFIG_NAME).get("_class_name")
    state = read_folder(folder)
    if kind == VideoUNet.__name__:
        saved = read_config(folder)
        if saved.in_channels < network.config.in_channels:
            return extend(network, state, str(folder))
        differ = [k for k, v in saved if k != "norm_statistics" and v != getattr(network.config, k)]
        if differ:
            raise CheckpointError(
                f"{folder / CONFIG_NAME}: {differ[0]} is {getattr(saved, differ[0])}, this run's model.{differ[0]} is "
                f"{getattr(network.config, differ[0])}: the weights need the same"
            )
        _tell_statistics(network, saved.norm_statistics, str(folder))
        return LoadReport(str(folder), _copy(network, state, set(network.state_dict()), str(folder)), (), ())
    if kind == FLAT:
        require_flat(shapes(state), network.config, str(folder))
        return inflate(network, state, str(folder))
    raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {kind!r}, wanted VideoUNet or {FLAT}")


def _initialize_from_file(network: VideoUNet, file: WeightFile, extract_ema: bool) -> LoadReport:
    """Start `network` from a released file or a single file of Stable Diffusion; see `initialize`."""
    if not is_single_file(file):
        released: StateDict = released_state(file.content, file.path)
        if _lacks_condition(network, released):
            released = _with_condition(network, released, str(file.path))
        return load_released(network, released, str(file.path))
    flat = read_unet(file, spatial_shapes(network), network.config, extract_ema=extract_ema)
    report = inflate(network, flat.state, str(file.path))
    return replace(report, unused=flat.unused, averaged=flat.averaged)


def read_flat(path: str | Path, network: VideoUNet, *, extract_ema: bool = False) -> FlatUNet:
    """Return the 2-D UNet at `path`: a single file, a Stable Diffusion folder in diffusers' format, or its unet/.

    Args:
        path: of the weights.
        network: the video network that they are for; it may be on the meta device.
        extract_ema: whether the averaged weights of a single file are taken.

    Raises:
        CheckpointError: the path holds anything else, or weights that do not fit.
    """
    path = Path(path)
    if path.is_file():
        return read_unet(read_weight_file(path), spatial_shapes(network), network.config, extract_ema=extract_ema)
    folder = path / NETWORK if (path / NETWORK).is_dir() else path
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{path}: wanted a .safetensors or .ckpt of Stable Diffusion, or a folder of it in diffusers' format; "
            f"found no {folder / CONFIG_NAME}"
        )
    kind = read_json(folder / CONFIG_NAME).get("_class_name")
    if kind != FLAT:
        raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {kind!r}, wanted {FLAT}")
    state = read_folder(folder)
    require_flat(shapes(state), network.config, str(folder))
    return FlatUNet(state)


def save_network(folder: str | Path, config: UNetConfig, state: StateDict) -> None:
    """Write config.json, and the weights in their dtypes as safetensors, into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(network_config_text(config))
    save_tensors({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS_NAME)


def network_config_text(config: UNetConfig) -> str:
    """Return the text of a network's config.json in diffusers' format."""
    values = {"_class_name": VideoUNet.__name__, **config.model_dump(mode="json")}
    return json.dumps(values, indent=2) + "\n"


def save_tensors(tensors: StateDict, path: Path) -> None:
    """Write tensors by name as safetensors, to a file that others may read where the umask lets them."""
    save_file(dict(tensors), path)
    apply_umask(path)


def load_network(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VideoUNet:
    """Return the network that `save_network` wrote."""
    folder = Path(folder)
    network = VideoUNet(read_config(folder))
    _copy(network, read_folder(folder), set(network.state_dict()), str(folder))
    return network.to(device, dtype).eval()


def read_config(folder: Path) -> UNetConfig:
    """Return the config of the network that `save_network` wrote into `folder`."""
    values = read_json(folder / CONFIG_NAME)
    if values.pop("_class_name", None) != VideoUNet.__name__:
        raise CheckpointError(f"{folder / CONFIG_NAME}: wanted _class_name {VideoUNet.__name__}")
    return validate(UNetConfig, values, str(folder / CONFIG_NAME))


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a network's folder in diffusers' format: one safetensors file, or several with an index."""
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            state.update(load_file(file))
        except SafetensorError as error:
            raise CheckpointError(f"{file}: no complete safetensors file: {safetensors_fault(file, error)}") from None
    return state


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a network's folder in diffusers' format.

    Raises:
        CheckpointError: one of them is missing.
    """
    index = folder / (WEIGHTS_NAME + ".index.json")
    names = sorted(set(read_json(index).get("weight_map", {}).values())) if index.is_file() else [WEIGHTS_NAME]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing; weights are read from safetensors only")
    return [folder / name for name in names]


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: there is no such file, or something else in it.
    """
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: wanted JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: wanted a JSON object, got {type(content).__name__}")
    return content


def _tell_statistics(network: VideoUNet, trained: str, source: str) -> None:
    """Log if the network's norms pool their statistics otherwise than the weights were trained with."""
    wanted = network.config.norm_statistics
    if wanted != trained:
        log.info(f"{source}: trained with norm_statistics {trained}, goes on with {wanted}: joint outputs change")


def _copy(network: VideoUNet, state: StateDict, wanted: set[str], source: str) -> tuple[str, ...]:
    """Copy exactly the `wanted` tensors of `state`; a missing, unexpected or misshapen one is an error naming it."""
    parameters = network.state_dict()
    require_fit(state, {name: shape for name, shape in shapes(parameters).items() if name in wanted}, source)
    with torch.no_grad():
        for name in wanted:
            parameters[name].copy_(state[name])
    return tuple(sorted(wanted))
