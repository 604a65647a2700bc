"""Giving checkpoints of the layout before the present one: the same values, bit for bit, and hashes.

1. The old files are read without running what they hold: see lavie.training.checkpoint.old_layout.
2. `.checkpoint-STEP.partial` gets all that a save would write, every file and folder fsynced; unet/ and config.yaml are
   copied as they are.
3. checkpoint-STEP is renamed to `.checkpoint-STEP.old-layout`, and the new folder takes its name. A process that is
   killed between the two leaves both, of which the next start of the run takes the new one.

The old checkpoint stays, whole, until its user deletes it: no save and no start of a run does.
"""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Size

from ... import __version__
from ...config.load import load_config
from ...config.train import TrainConfig
from ...errors import CheckpointError
from ...manifest import is_old, read_values, write_manifest
from ...models.state_dict import require_fit, shapes
from ...models.trainable import set_trainable
from ...models.unet import VideoUNet
from ...models.weights import CONFIG_NAME, WEIGHTS_NAME
from ...run_folder import NETWORK, RUN_CONFIG
from ...tensor_file import FileRecord, copy_file, sync_folder, write_tensors
from .old_layout import OldState, read_old_state
from .ranges import RANGES, STATE, file_of
from .retention import partial_of


def kept_at(folder: Path) -> Path:
    """Return where the old checkpoint stays when `folder` is converted."""
    return folder.with_name(f".{folder.name}.old-layout")


def convert(folder: Path, *, overwrite: bool = False) -> Path:
    """Give a checkpoint of the old layout the present one, under its name, and return where the old one is kept.

    Args:
        folder: the checkpoint.
        overwrite: whether an old one may be replaced that an earlier conversion has kept.

    Raises:
        CheckpointError: it is damaged, or cannot be converted.
        OSError: the new files cannot be written. The old ones are as they were.
    """
    folder = folder.resolve()
    kept, partial = kept_at(folder), partial_of(folder)
    if kept.exists() and not overwrite:
        raise CheckpointError(f"{kept} is there, which an earlier conversion has kept: delete it, or say --overwrite")
    manifest = _old_manifest(folder)
    config = load_config(folder / RUN_CONFIG)
    if config.optimizer != "adamw":
        raise CheckpointError(
            f"{folder}: optimizer is {config.optimizer}, whose moments no new layout could hold: set init_weights to "
            "it, to go on from its weights alone"
        )
    state = read_old_state(folder, manifest, _trained(folder, config))
    need, free = _bytes_needed(folder, state), shutil.disk_usage(folder.parent).free
    if need > free:
        raise CheckpointError(f"{folder}: converting needs {need:,} bytes, and {folder.parent} has {free:,} free")

    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(folder, partial, {"step": manifest["step"], "optimizer": config.optimizer}, state)
        if kept.exists():
            shutil.rmtree(kept)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    folder.rename(kept)
    partial.rename(folder)
    sync_folder(folder.parent)
    return kept


def _old_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint of the old layout.

    Raises:
        CheckpointError: it is damaged, of the present layout, or of another step than its folder's name says.
    """
    manifest = read_values(folder)
    if not is_old(manifest):
        raise CheckpointError(f"{folder}: has the present layout already")
    for name in ("step", "world_size"):
        if type(manifest.get(name)) is not int or manifest[name] < 0:
            raise CheckpointError(f"{folder}: checkpoint.json says {name} {manifest.get(name)!r}: wanted a number")
    if folder.name.startswith("checkpoint-") and folder.name != f"checkpoint-{manifest['step']}":
        raise CheckpointError(f"{folder}: holds step {manifest['step']}: rename it to checkpoint-{manifest['step']}")
    return manifest


def _trained(folder: Path, config: TrainConfig) -> dict[str, Size]:
    """Return the shapes of the parameters that train, in the network's order.

    Raises:
        CheckpointError: the network to sample from, which has the averages and what does not train, is another one.
    """
    with torch.device("meta"):
        network = VideoUNet(config.model)
    set_trainable(network, config.trainable)
    path = folder / NETWORK / WEIGHTS_NAME
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
            if odd := [name for name in found if file.get_slice(name).get_dtype() != "F32"]:
                raise CheckpointError(f"{path}: {odd[0]} is not float32")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    require_fit(found, shapes(network.state_dict()), str(path), "config.yaml beside it")
    return {name: parameter.shape for name, parameter in network.named_parameters() if parameter.requires_grad}


def _bytes_needed(folder: Path, state: OldState) -> int:
    """Return how many bytes the new checkpoint takes, but for its few texts."""
    values = [value for pieces in state.ranks for piece in pieces for value in piece.values.values()]
    return (folder / NETWORK / WEIGHTS_NAME).stat().st_size + sum(value.nbytes for value in values)


def _write(old: Path, partial: Path, about: dict[str, Any], state: OldState) -> None:
    """Write a checkpoint of the present layout into a new folder, fsynced, its manifest last."""
    (partial / STATE).mkdir(parents=True)
    (partial / NETWORK).mkdir()
    nonce, files = secrets.token_hex(8), dict[str, FileRecord]()
    for rank, pieces in enumerate(state.ranks):
        ranges = {piece.name: (piece.start, piece.start + len(next(iter(piece.values.values())))) for piece in pieces}
        tensors = {f"{kind}/{piece.name}": value for piece in pieces for kind, value in piece.values.items()}
        header = {RANGES: json.dumps(ranges, separators=(",", ":")), "nonce": nonce}
        name = file_of(rank, len(state.ranks))
        files[name] = write_tensors(partial / name, tensors, header)
    for name in (f"{NETWORK}/{CONFIG_NAME}", f"{NETWORK}/{WEIGHTS_NAME}", RUN_CONFIG):
        files[name] = copy_file(old / name, partial / name)
    for folder in (partial / STATE, partial / NETWORK):
        sync_folder(folder)
    versions = {"lavie": __version__, "torch": torch.__version__}
    write_manifest(partial, {**about, "nonce": nonce, **state.about, **versions}, files)
    sync_folder(partial)
