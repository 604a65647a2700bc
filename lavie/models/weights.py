"""Weights in and out of the video UNet, strict both ways: Stable Diffusion's, LaVie's released files, our own folders.

The names agree by construction; the only keys that exist on one side alone are the released rotary frequencies, which
are constants here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import UNetConfig
from ..config_file import validate
from ..distributed import log
from ..errors import CheckpointError
from ..ops.temporal_attention import rotary_frequencies
from .stages import STAGES, is_temporal
from .unet import VideoUNet

StateDict = Mapping[str, Tensor]
ROTARY = ".rotary_emb.freqs"
RENAMED = (("attn_temp.", "attn_temporal."), ("norm_temp.", "norm_temporal."))
"""Our names, and those of the released super-resolution network, where they differ."""
RELATIVE_BIAS = ".time_rel_pos_bias."
STAGE_KEYS = ("spatial_attention", "temporal_order", "temporal_convolutions", "rotary_dim", "relative_bias")
"""What tells the stages apart and no released config says."""
WEIGHTS_NAME, CONFIG_NAME = "diffusion_pytorch_model.safetensors", "config.json"


@dataclass(frozen=True)
class LoadReport:
    """Names of parameters by what became of them."""

    source: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    """Parameters of the network that keep their initial values: the temporal path of an inflated 2-D UNet."""
    unused: tuple[str, ...]
    """Keys of the source without a place here: constants, checked to be equal, and a bias that is left out."""

    def __str__(self) -> str:
        return f"{self.source}: {len(self.loaded)} tensors loaded, {len(self.fresh)} fresh, {len(self.unused)} unused"


def unet_config(stage: str, config: Mapping[str, Any]) -> UNetConfig:
    """The UNetConfig of a diffusers-style `config` dict, whose attention_head_dim is the NUMBER of heads.

    GroupNorm statistics are pooled, as the released networks have them.
    """
    if stage not in STAGES:
        raise CheckpointError(f"stage {stage!r}: wanted one of {', '.join(STAGES)}")
    channels = tuple(config["block_out_channels"])
    return UNetConfig(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        block_out_channels=channels,
        cross_attention=tuple(name.startswith("CrossAttn") for name in config["down_block_types"]),
        layers_per_block=config["layers_per_block"],
        num_attention_heads=_tuple(config["attention_head_dim"]),
        only_cross_attention=_tuple(config.get("only_cross_attention", False)),
        cross_attention_dim=config["cross_attention_dim"],
        norm_num_groups=config["norm_num_groups"],
        linear_projection=config.get("use_linear_projection", False),
        num_noise_levels=config.get("num_class_embeds") or 0,
        max_noise_level=config.get("max_noise_level"),
        norm_statistics="pooled",
        **{key: getattr(STAGES[stage], key) for key in STAGE_KEYS},
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def load_official(stage: str, state_dict: StateDict, config: Mapping[str, Any]) -> VideoUNet:
    """The released network of a stage, from its state dict and its diffusers-style config.

    Raises CheckpointError if a key is missing, unexpected, or of another shape.
    """
    network = VideoUNet(unet_config(stage, config))
    load_released(network, state_dict)
    return network


def to_official(stage: str, network: VideoUNet) -> dict[str, Tensor]:
    """The state dict with the released names, rotary frequencies included."""
    if stage not in STAGES:
        raise CheckpointError(f"stage {stage!r}: wanted one of {', '.join(STAGES)}")
    state = {_released_name(name, network): value for name, value in network.state_dict().items()}
    dims = network.config.rotary_dim
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, dims, 2).float() / max(dims, 1))  # float32: the released bits
    return state | {name: frequencies.clone() for name in _rotary_names(network)}


def load_stable_diffusion(unet_state_dict: StateDict, config: UNetConfig | Mapping[str, Any]) -> VideoUNet:
    """A video UNet with the weights of a 2-D UNet; its temporal path starts fresh, as an exact identity."""
    network = VideoUNet(config if isinstance(config, UNetConfig) else unet_config("base", config))
    inflate(network, unet_state_dict)
    return network


def load_released(network: VideoUNet, state_dict: StateDict, source: str = "released weights") -> LoadReport:
    """Copy a released state dict into the network: it holds every parameter, and else only rotary frequencies."""
    rotary = _rotary_names(network)
    unused = tuple(sorted(rotary & set(state_dict)))
    expected = rotary_frequencies(network.config.rotary_dim)
    for name in unused:
        got = state_dict[name].double()
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=2e-3, atol=1e-4):
            raise CheckpointError(
                f"{source}: {name} is not 10000^(-2i/{network.config.rotary_dim}), the only RoPE that is built"
            )
    _tell_statistics(network, "pooled", source)
    ours = {_released_name(name, network): name for name in network.state_dict()}
    weights = {ours.get(name, name): value for name, value in state_dict.items() if name not in rotary}
    loaded = _copy(network, weights, set(network.state_dict()), source)
    return LoadReport(source, loaded, (), unused)


def inflate(network: VideoUNet, state_dict: StateDict, source: str = "2-D UNet") -> LoadReport:
    """Copy a 2-D UNet's state dict into the spatial part: every spatial parameter must be in it, and nothing else."""
    spatial = {name for name in network.state_dict() if not is_temporal(name)}
    loaded = _copy(network, state_dict, spatial, source)
    fresh = tuple(sorted(set(network.state_dict()) - spatial))
    return LoadReport(source, loaded, fresh, ())


def extend(network: VideoUNet, state_dict: StateDict, source: str = "base network") -> LoadReport:
    """Copy a network without condition channels into one with them: the new channels of conv_in start at zero, so that
    the condition is ignored at first (as released, for interpolation from the base network).

    A relative bias that the network does not have is left out: it was learned for another frame rate and length.
    """
    weights = dict(state_dict)
    first = network.conv_in.weight
    kernel = weights.get("conv_in.weight")
    if kernel is None or kernel.shape[:1] + kernel.shape[2:] != first.shape[:1] + first.shape[2:]:
        raise CheckpointError(
            f"{source}: no conv_in.weight that {tuple(first.shape)} could extend: check section model"
        )
    condition = kernel.new_zeros(len(first), first.shape[1] - kernel.shape[1], *first.shape[2:])
    weights["conv_in.weight"] = torch.cat([kernel, condition], 1)
    unused = () if network.config.relative_bias else tuple(sorted(name for name in weights if RELATIVE_BIAS in name))
    loaded = _copy(network, {n: w for n, w in weights.items() if n not in unused}, set(network.state_dict()), source)
    return LoadReport(source, loaded, (), unused)


def initialize(network: VideoUNet, path: str | Path) -> LoadReport:
    """Start `network` from what lies at `path`, told by its form:

    a released LaVie .pt (a dict with key "ema", or a plain state dict); a run's folder, one of its checkpoints or a
    network folder (config.json with our class), with fewer input channels too; a Stable Diffusion folder in diffusers'
    format, or its unet/ folder.
    Raises CheckpointError where the file is anything else or does not fit.
    """
    path = Path(path)
    if path.is_file():
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: wanted a .pt of plain tensors (weights_only), got: {error}") from None
        state = content.get("ema", content) if isinstance(content, dict) else None
        if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(state[k], Tensor) for k in state):
            raise CheckpointError(f'{path}: wanted a state dict, or a dict with one under "ema"; found something else')
        return load_released(network, state, str(path))
    if checkpoints(path):
        path = newest_checkpoint(path)
    folder = path / "unet" if (path / "unet").is_dir() else path
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{path}: wanted a .pt file, a checkpoint folder or a Stable Diffusion folder; "
            f"found no {folder / CONFIG_NAME}"
        )
    kind = _read_json(folder / CONFIG_NAME).get("_class_name")
    state = _read_folder(folder)
    if kind == VideoUNet.__name__:
        saved = _read_config(folder)
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
    if kind == "UNet2DConditionModel":
        return inflate(network, state, str(folder))
    raise CheckpointError(f"{folder / CONFIG_NAME}: _class_name is {kind!r}, wanted VideoUNet or UNet2DConditionModel")


def save_network(folder: str | Path, config: UNetConfig, state: StateDict) -> None:
    """Write config.json and float32 weights as safetensors into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {"_class_name": VideoUNet.__name__, **config.model_dump(mode="json")}
    (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS_NAME)


def load_network(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VideoUNet:
    """The network that `save_network` wrote."""
    folder = Path(folder)
    network = VideoUNet(_read_config(folder))
    _copy(network, _read_folder(folder), set(network.state_dict()), str(folder))
    return network.to(device, dtype).eval()


MANIFEST = "checkpoint.json"
"""In every finished checkpoint folder of a run."""


def checkpoints(run: str | Path) -> list[Path]:
    """The finished checkpoint-<step> folders of a run, oldest step first."""
    named = [(re.fullmatch(r"checkpoint-(\d+)", p.name), p) for p in Path(run).glob("checkpoint-*")]
    return [p for _, p in sorted((int(m[1]), p) for m, p in named if m and (p / MANIFEST).is_file())]


def newest_checkpoint(path: str | Path) -> Path:
    """`path` if it is a checkpoint folder, else the newest one in the run's folder `path`; else CheckpointError."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise CheckpointError(f"{path}: no checkpoint-<step> folder, nor one that holds them (no {MANIFEST})")
    return found[-1]


def _read_config(folder: Path) -> UNetConfig:
    values = _read_json(folder / CONFIG_NAME)
    if values.pop("_class_name", None) != VideoUNet.__name__:
        raise CheckpointError(f"{folder / CONFIG_NAME}: wanted _class_name {VideoUNet.__name__}")
    return validate(UNetConfig, values, str(folder / CONFIG_NAME))


def _read_folder(folder: Path) -> dict[str, Tensor]:
    index = folder / (WEIGHTS_NAME + ".index.json")
    if index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
    else:
        names = [WEIGHTS_NAME]
    state: dict[str, Tensor] = {}
    for name in names:
        file = folder / name
        if file.name != name or not file.is_file():
            raise CheckpointError(f"{folder}: {name} is missing; weights are read from safetensors only")
        try:
            state.update(load_file(file))
        except SafetensorError as error:
            raise CheckpointError(f"{file}: no complete safetensors file: {error}") from None
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: wanted JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: wanted a JSON object, got {type(content).__name__}")
    return content


def _tell_statistics(network: VideoUNet, trained: str, source: str) -> None:
    own = network.config.norm_statistics
    if own != trained:
        log.info(f"{source}: trained with norm_statistics {trained}, goes on with {own}: joint outputs change")


def _released_name(name: str, network: VideoUNet) -> str:
    """What the released file of the network's kind calls a parameter."""
    for ours, theirs in RENAMED if network.config.temporal_convolutions else ():
        name = name.replace(ours, theirs)
    return name


def _rotary_names(network: VideoUNet) -> set[str]:
    """The keys of the rotary frequencies in the network's released file."""
    if not network.config.rotary_dim:
        return set()
    attentions = [name for name, _ in network.named_modules() if name.endswith(".attn_temp")]
    names = {_released_name(f"{name}.", network)[:-1] + ROTARY for name in attentions}
    return names | ({"temporal_rotary_emb.freqs"} if network.config.temporal_convolutions else set())


def _copy(network: VideoUNet, state: StateDict, wanted: set[str], source: str) -> tuple[str, ...]:
    """Copy exactly the `wanted` tensors of `state`; a missing, unexpected or misshapen one is an error naming it."""
    own = network.state_dict()
    missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(wanted & set(state))
        if state[name].shape != own[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise CheckpointError(f"{source} does not fit the network (keys {'; '.join(faults)}): check the section model")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(state[name])
    return tuple(sorted(wanted))
