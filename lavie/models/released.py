"""LaVie's released files: their names, constants and configs, translated both ways without touching a bit.

A file is a torch.save of {"ema": state dict}, or of a plain state dict. Its names are ours but for a few; the only keys
that exist on one side alone are the rotary frequencies, which are constants here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.load import validate
from ..config.model import UNetConfig
from ..config.stages import STAGES, condition_channels
from ..errors import CheckpointError
from ..ops.temporal_attention import rotary_frequencies
from .state_dict import StateDict, require_fit, shapes
from .torch_file import read_torch_file
from .unet import VideoUNet

ROTARY = ".rotary_emb.freqs"
RENAMED = (("attn_temp.", "attn_temporal."), ("norm_temp.", "norm_temporal."))
"""Our names, and those of the released super-resolution network, where they differ."""
STAGE_KEYS = (
    "spatial_attention",
    "temporal_order",
    "temporal_module",
    "temporal_position",
    "temporal_convolutions",
    "rotary_dim",
    "relative_bias",
)
"""Keys in which the stages differ, and which no released config has."""


def unet_config(stage: str, config: Mapping[str, Any], source: str = "config") -> UNetConfig:
    """Return the UNetConfig of a diffusers-style `config` dict, whose attention_head_dim is the NUMBER of heads.

    GroupNorm statistics are pooled, as the released networks have them.

    Raises:
        CheckpointError: the stage is unknown, or a key is missing.
        ConfigError: the values make no network.
    """
    require_stage(stage)

    # By our names, from what diffusers calls the same.
    try:
        levels = config.get("num_class_embeds") or 0
        highest = config.get("max_noise_level")
        values = dict(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            block_out_channels=config["block_out_channels"],
            cross_attention=[name.startswith("CrossAttn") for name in config["down_block_types"]],
            layers_per_block=config["layers_per_block"],
            num_attention_heads=config["attention_head_dim"],
            only_cross_attention=config.get("only_cross_attention", False),
            cross_attention_dim=config["cross_attention_dim"],
            norm_num_groups=config["norm_num_groups"],
            linear_projection=config.get("use_linear_projection", False),
            num_noise_levels=levels,
            max_noise_level=highest,
            norm_statistics="pooled",
        )
    except KeyError as error:
        raise CheckpointError(
            f"{source}: key {error.args[0]} is missing: wanted a config in diffusers' style"
        ) from None

    # What no released config says, the stage decides.
    return validate(UNetConfig, values | {key: getattr(STAGES[stage].network, key) for key in STAGE_KEYS}, source)


def require_stage(stage: str) -> None:
    """Raise CheckpointError if there is no such stage."""
    if stage not in STAGES:
        raise CheckpointError(f"stage {stage!r}: wanted one of {', '.join(STAGES)}")


def require_released_kind(stage: str, config: UNetConfig) -> None:
    """Raise CheckpointError if the released code of the stage would compute something else with such weights."""
    require_stage(stage)
    read = config.out_channels + condition_channels(STAGES[stage].condition, config.out_channels)
    if config.in_channels != read:
        raise CheckpointError(
            f"model.in_channels is {config.in_channels}, the released {stage} network of such latents reads {read}: "
            "export with --format diffusers"
        )
    for key in STAGE_KEYS:
        ours, theirs = getattr(config, key), getattr(STAGES[stage].network, key)
        if ours != theirs:
            raise CheckpointError(
                f"model.{key} is {ours}, the released {stage} network has {theirs} and no config to say otherwise: "
                "export with --format diffusers"
            )


def to_released(network: VideoUNet, state: StateDict, constants: StateDict | None = None) -> dict[str, Tensor]:
    """Return the network's `state` dict under its released names, with the rotary frequencies.

    Args:
        network: says which names there are; may be on the meta device.
        constants: rotary frequencies as a released file had them; default: computed, in the dtype of the weights.
    """
    named = {_released_name(name, network): value for name, value in state.items()}
    if constants:
        return named | dict(constants)
    dims = network.config.turned_dims
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, dims, 2).float() / max(dims, 1))  # float32: the released bits
    frequencies = frequencies.to(state["conv_in.weight"].dtype)
    return named | {name: frequencies.clone() for name in _rotary_names(network)}


def from_released(
    network: VideoUNet, state: StateDict, source: str, advice: str = "the section model"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a released `state` dict under our names, and its rotary frequencies; every tensor stays as it was.

    Raises:
        CheckpointError: a key is missing, unexpected, or of another shape, or a frequency is not RoPE's.
    """
    rotary = _rotary_names(network)
    constants = {name: value for name, value in state.items() if name in rotary}
    expected = rotary_frequencies(network.config.turned_dims)
    for name, value in constants.items():
        got = value.double()
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=2e-3, atol=1e-4):
            raise CheckpointError(
                f"{source}: {name} is not 10000^(-2i/{network.config.turned_dims}), the only RoPE that is built"
            )
    theirs = {name: _released_name(name, network) for name in network.state_dict()}
    wanted = {theirs[name]: shape for name, shape in shapes(network.state_dict()).items()}
    require_fit({name: value for name, value in state.items() if name not in rotary}, wanted, source, advice)
    return {ours: state[name] for ours, name in theirs.items()}, constants


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a released .pt file. Only plain tensors are read: nothing in the file is run.

    Raises:
        CheckpointError: the file is none of these.
    """
    return released_state(read_torch_file(path), path)


def released_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a released .pt file, which `read_torch_file` has read from `path`.

    Raises:
        CheckpointError: it is something else.
    """
    state = content.get("ema", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(state[k], Tensor) for k in state):
        raise CheckpointError(f'{path}: wanted a state dict, or a dict with one under "ema"; found something else')
    return state


def write_released(path: str | Path, state: StateDict) -> None:
    """Write a .pt file as the released ones are: the state dict under "ema"."""
    torch.save({"ema": dict(state)}, path)


def _released_name(name: str, network: VideoUNet) -> str:
    """Return what the released file of the network's kind calls a parameter."""
    for ours, theirs in RENAMED if network.config.temporal_convolutions else ():
        name = name.replace(ours, theirs)
    return name


def _rotary_names(network: VideoUNet) -> set[str]:
    """Return the keys of the rotary frequencies in the network's released file."""
    if not network.config.turned_dims:
        return set()
    attentions = [name for name, _ in network.named_modules() if name.endswith(".attn_temp")]
    names = {_released_name(f"{name}.", network)[:-1] + ROTARY for name in attentions}
    return names | ({"temporal_rotary_emb.freqs"} if network.config.temporal_convolutions else set())
