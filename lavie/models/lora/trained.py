"""The adapters of a training run on disk: a checkpoint holds them alone, and names the weights that they change.

lora/
  pytorch_lora_weights.safetensors   the averaged adapters, as `write_lora` writes them: other programs read it
  base.json                          Base: where the weights that they change lie, and what these are
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...config.train import TrainConfig
from ...errors import CheckpointError
from ...files import sha256_of
from ...manifest import require_whole_network
from ...run_folder import LORA, checkpoints, newest_checkpoint
from ...tensor_file import FileRecord, write_text
from ..start import start_network
from ..state_dict import StateDict
from ..unet import VideoUNet
from ..weights import read_json
from .attach import load_lora, merge_lora
from .change import Change, LowRank
from .contents import DIFFUSERS_WEIGHTS
from .read import LoraFile
from .write import write_lora

BASE_NAME = "base.json"


class Base(NamedTuple):
    """The weights that adapters change."""

    path: str
    """Where they lie: an absolute path of what `initialize` takes, of a run the checkpoint."""
    sha256: str
    """What they are, whatever the layout that they lie in: see `identity`."""


def has_adapters(folder: str | Path) -> bool:
    """Return whether a folder is the checkpoint of a run that trains adapters."""
    return (Path(folder) / LORA / BASE_NAME).is_file()


def base_path(init_weights: str | Path) -> Path:
    """Return the absolute path of the weights that `initialize` would take now: of a run, its newest checkpoint."""
    path = Path(init_weights)
    return (newest_checkpoint(path) if checkpoints(path) else path).resolve()


def identity(state: StateDict) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of a network's weights: their names, shapes and float32 values."""
    whole = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().float().cpu().contiguous()
        digest = hashlib.sha256(values.flatten().view(torch.uint8).numpy().data).hexdigest()
        whole.update(f"{name} {tuple(values.shape)} {digest}\n".encode())
    return whole.hexdigest()


def read_base(folder: str | Path) -> Base:
    """Return the base that a checkpoint of adapters names.

    Raises:
        CheckpointError: the file does not say it.
    """
    path = Path(folder) / LORA / BASE_NAME
    values = read_json(path)
    if not all(isinstance(values.get(key), str) for key in Base._fields):
        raise CheckpointError(f"{path}: wanted the texts {' and '.join(Base._fields)}")
    return Base(values["path"], values["sha256"])


def write_adapters(folder: Path, state: Mapping[str, Tensor], scale: float, base: Base) -> dict[str, FileRecord]:
    """Write the adapters of a run into a checkpoint's folder, and return the records of the files by path in it.

    Args:
        folder: the checkpoint's; it holds the folder LORA, which is empty.
        state: the adapters by plain names; see `add_lora`.
        scale: alpha / r.
        base: the weights that they change.

    Raises:
        OSError: a file cannot be written.
    """
    file = LoraFile("the run's adapters", "", adapter_changes(state, scale), {})
    [path] = write_lora(file, folder / LORA / DIFFUSERS_WEIGHTS[0], "diffusers")
    return {
        f"{LORA}/{path.name}": {"bytes": path.stat().st_size, "sha256": sha256_of(path)},
        f"{LORA}/{BASE_NAME}": write_text(folder / LORA / BASE_NAME, json.dumps(base._asdict(), indent=2) + "\n"),
    }


def adapter_changes(state: Mapping[str, Tensor], scale: float) -> dict[str, Change]:
    """Return the changes that adapters make, by the weights that they change.

    Args:
        state: the adapters by plain names; see `add_lora`.
        scale: alpha / r.
    """
    names = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
    return {
        f"{name}.weight": LowRank(state[f"{name}.lora_B.weight"], state[f"{name}.lora_A.weight"], None, scale)
        for name in names
    }


def build_base(config: TrainConfig, path: str | Path) -> VideoUNet:
    """Return the network of a run of adapters without them, in float32, as the run built it.

    Raises:
        CheckpointError: the path holds no weights, or weights that do not fit.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)  # temporal layers that the weights do not have are drawn, as by the run
        network = VideoUNet(config.model)
    start_network(network, config.model_copy(update={"init_weights": str(path)}))
    return network


def load_base(folder: str | Path, config: TrainConfig) -> VideoUNet:
    """Return the base of a checkpoint of adapters, in float32.

    Raises:
        CheckpointError: the base is gone, or another one.
    """
    base = read_base(folder)
    require_base_there(folder, base)
    network = build_base(config, base.path)
    require_base(folder, base, identity(network.state_dict()), base.path)
    return network


def require_base_there(folder: str | Path, base: Base) -> None:
    """Raise CheckpointError if nothing lies where the base of a checkpoint's adapters lay."""
    if not Path(base.path).exists():
        raise CheckpointError(
            f"{folder} holds adapters, and the weights that they change, {base.path}, are gone: put them back, or a "
            f"link to them, or give {Path(folder) / LORA} as --lora to the folder where they are now"
        )


def require_base(folder: str | Path, base: Base, found: str, path: str | Path) -> None:
    """Raise CheckpointError if weights are not the base of a checkpoint's adapters.

    Args:
        folder: the checkpoint.
        base: what it names.
        found: the identity of the weights.
        path: where they lie.
    """
    if found != base.sha256:
        raise CheckpointError(
            f"{folder} holds adapters of other weights than those in {path} (SHA-256 {base.sha256[:12]}, found "
            f"{found[:12]}): put back those that it was trained on"
        )


def load_adapted(folder: str | Path, config: TrainConfig) -> VideoUNet:
    """Return the network of a checkpoint of adapters, with these merged into its weights: plain, in float32.

    Raises:
        CheckpointError: a file is damaged, or the base is gone, or another one.
    """
    require_whole_network(Path(folder))
    network = load_base(folder, config)
    load_lora(network, Path(folder) / LORA)
    merge_lora(network)
    return network.eval()
