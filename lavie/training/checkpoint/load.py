"""Putting a checkpoint's state into an engine, of whatever number of ranks and ZeRO stage."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ...distributed import barrier, log, rank, world_size
from ...errors import CheckpointError
from ...models.lora.trained import has_adapters
from ...models.weights import WEIGHTS_NAME
from ...run_folder import NETWORK
from ..ema import EMA
from .find import Resume
from .ranges import STATE, RangeFiles, file_of
from .state import (
    AVERAGE,
    WEIGHTS,
    begin_moments,
    frozen,
    held_by,
    moments_of,
    set_counters,
    set_opaque_states,
    spread_weights,
)


@torch.no_grad()
def load(engine: Any, ema: EMA | None, resume: Resume) -> None:
    """Restore the weights, the optimizer, the counts and the averages from a checkpoint. Collective.

    Args:
        engine: DeepSpeed's engine around the network, of the same config as the checkpoint's run.
        ema: the average of its weights, if the run keeps one.
        resume: the checkpoint, as `find` returns it.

    Raises:
        CheckpointError: it lacks something.
    """
    folder, manifest = resume.folder, resume.manifest
    optimizer = engine.optimizer
    if hasattr(optimizer, "checkpoint_event_prologue"):
        optimizer.checkpoint_event_prologue()  # under stage 3, no parameter may be gathered meanwhile

    # The float32 weights and the moments of what trains.
    steps, elastic = manifest["optimizer_steps"], manifest["optimizer"] == "adamw"
    if steps and elastic:
        begin_moments(engine, steps)
    own, adapted = file_of(rank(), world_size()), has_adapters(folder)
    names = [name for name in manifest["files"] if name.startswith(f"{STATE}/")]
    with RangeFiles(folder, names, own) as files:
        for held in held_by(engine):
            moments = moments_of(engine, held) if elastic else {}
            averages = {AVERAGE: ema.shadow[held.name]} if ema and adapted else {}
            for kind, values in {WEIGHTS: held.of(held.flat.detach()), **moments, **averages}.items():
                files.fill(values, kind, held.name, held.start)
    if not elastic:
        set_opaque_states(engine, steps, load_file(folder / own))
    spread_weights(engine)

    # What does not train, and the averages, are in the network to sample from. Adapters have both elsewhere.
    if not adapted:
        _load_frozen(engine, folder)
    if hasattr(optimizer, "checkpoint_event_epilogue"):
        optimizer.checkpoint_event_epilogue()
    if ema and not adapted:
        ema.load(folder / NETWORK / WEIGHTS_NAME)
    set_counters(engine, manifest["step"], manifest)
    barrier()
    log.info(f"resumed from {folder}")


def _load_frozen(engine: Any, folder: Path) -> None:
    """Copy the weights that do not train from the network of a checkpoint."""
    path = folder / NETWORK / WEIGHTS_NAME
    with safe_open(path, framework="pt") as network:
        for name, piece in frozen(engine):
            if name not in network.keys():  # noqa: SIM118 - no mapping, only its keys
                raise CheckpointError(f"{path}: {name} is missing: the network is another one")
            flat = network.get_tensor(name).flatten()
            piece.values.copy_(flat[piece.start : piece.start + piece.values.numel()])
