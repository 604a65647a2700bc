"""Saving and resuming a run: `checkpoint-<step>/` holds DeepSpeed's state, the network to sample from, and the config.

    checkpoint.json   what this is: step, ranks, versions; written last
    config.yaml       the run's resolved config
    unet/             the (averaged) network in float32: config.json and safetensors
    state/            DeepSpeed's parameters and optimizer states, one file a rank

The folder appears under its name by one rename, when all of it is written.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .. import __version__
from ..config.load import dump_yaml, load_config
from ..config.train import TrainConfig
from ..distributed import barrier, broadcast_object, is_main, log, world_size
from ..errors import CheckpointError, TrainingError
from ..models.weights import WEIGHTS_NAME, save_network
from ..run_folder import MANIFEST, NETWORK, RUN_CONFIG, checkpoint_folder, checkpoints, newest_checkpoint, step_of
from .ema import EMA, gathered_weights
from .optim import learning_rate
from .precision import training_dtype

MUST_MATCH = ("stage", "model", "trainable", "use_ema", "optimizer")
"""Keys whose values a resumed run must have in common with its checkpoint."""
MOVES_DATA = ("seed", "train_batch_size", "gradient_accumulation_steps", "data")
"""Keys that decide the order of the data: a resumed run with another value goes on with other samples."""
SCHEDULE = ("learning_rate", "lr_scheduler", "lr_warmup_steps", "max_train_steps")
"""Keys that decide the learning rate of a step: with another value it may jump where a run is resumed."""
FULL = 2**20
"""Free bytes up to which a disk counts as full, whatever error the writing ended with."""


def save(engine: Any, ema: EMA | None, config: TrainConfig, step: int) -> Path:
    """Write `checkpoint-<step>/`, then delete the oldest checkpoints past checkpoints_total_limit. Collective.

    Args:
        engine: DeepSpeed's engine around the network.
        ema: the average of its weights, if the run keeps one.
        config: the run.
        step: how many steps are done.

    Returns:
        The folder of the checkpoint.

    Raises:
        TrainingError: the disk is full.
    """
    final = checkpoint_folder(config.output_dir, step)
    partial = final.with_name(f".{final.name}.partial")

    # A save that was cut short, of whatever step, leaves a folder as large as a checkpoint.
    if is_main():
        for leftover in final.parent.glob(".checkpoint-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()

    # Every rank writes its part of DeepSpeed's state.
    _empty_stand_ins(engine.module)
    with _require_room(partial):
        engine.save_checkpoint(str(partial), tag="state", save_latest=False)

    # The network is gathered by all ranks and written by one. The manifest, which makes a checkpoint of it, comes last.
    weights = {}
    for name, weight in gathered_weights(engine.module, ema):
        if is_main():
            weights[name] = weight.cpu()
    if is_main():
        with _require_room(partial):
            save_network(partial / NETWORK, config.model, weights)
            (partial / RUN_CONFIG).write_text(dump_yaml(config), encoding="utf-8")
            manifest = {"step": step, "world_size": world_size(), "lavie": __version__, "torch": torch.__version__}
            manifest |= {"zero_stage": engine.zero_optimization_stage(), "dtype": _dtype_name(config)}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    barrier()

    # A folder of the same step is from before this run was resumed. Later checkpoints are of another try, and stay.
    if is_main():
        obsolete = [_rename_away(final)] if final.exists() else []
        os.replace(partial, final)
        if limit := config.checkpoints_total_limit:
            up_to_step = [folder for folder in checkpoints(final.parent) if step_of(folder) <= step]
            for folder in up_to_step[:-limit]:
                obsolete.append(_rename_away(folder))
        for folder in obsolete:
            shutil.rmtree(folder, ignore_errors=True)
    barrier()
    log.info(f"saved {final}")
    return final


@contextmanager
def _require_room(folder: Path) -> Iterator[None]:
    """Turn the errors of writing into `folder` on a full disk into a TrainingError, and delete the folder.

    torch and safetensors raise errors of their own for a full disk, without errno: the free bytes tell them apart.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free > FULL and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise TrainingError(
            f"{folder.parent} has no room for another checkpoint: make some, or set output_dir elsewhere, or lower "
            "checkpoints_total_limit, which is reached only after the newest is written. Then resume"
        ) from None


def _rename_away(folder: Path) -> Path:
    """Give a folder a name that is no checkpoint's, and return its path: half deleted, it must not look like one."""
    return folder.rename(folder.with_name(f".{folder.name}.old"))


@torch.no_grad()
def _empty_stand_ins(module: torch.nn.Module) -> None:
    """Empty the tensors that stand for weights which ZeRO-3 shares among the ranks, as they are in a new engine.

    After a step, DeepSpeed leaves one element in those of leaf modules. A state that was saved so, it would not load.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    for parameter in module.parameters():
        if getattr(parameter, "ds_status", None) is ZeroParamStatus.NOT_AVAILABLE:
            parameter.data = parameter.data.new_empty(0)


def find(config: TrainConfig, zero_stage: int) -> tuple[Path | None, int]:
    """Return the checkpoint that resume_from_checkpoint names, and its step. Collective.

    That is None and 0 if the key is not set, or if it is "auto" and the run has no checkpoint yet.

    Args:
        config: the run.
        zero_stage: the ZeRO stage of this run's DeepSpeed settings.

    Raises:
        CheckpointError: there is nothing to load, or it belongs to another network, number of ranks, dtype or kind of
            ZeRO stage.
    """
    if config.resume_from_checkpoint is None:
        return None, 0

    # Rank 0 looks for all: a shared disk may show each rank something else.
    found = broadcast_object(_named(config) if is_main() else None)
    if isinstance(found, CheckpointError):
        raise found
    if found is None:
        log.info(f"resume_from_checkpoint is auto, and {config.output_dir} has no checkpoint: starts at step 0")
        return None, 0

    manifest = json.loads((found / MANIFEST).read_text())
    _require_same_engine(found, manifest, config, zero_stage)
    _require_same_config(found, config, manifest["step"])
    return found, manifest["step"]


def _named(config: TrainConfig) -> Path | CheckpointError | None:
    """Return the checkpoint that resume_from_checkpoint names, why there is none, or None where "auto" finds none."""
    asked = config.resume_from_checkpoint
    if asked == "auto" and not checkpoints(config.output_dir):
        return None
    try:
        return newest_checkpoint(config.output_dir if asked in (None, "auto", "latest") else asked)
    except CheckpointError as error:
        return CheckpointError(f"resume_from_checkpoint is {asked}: {error}. Set it to null to start at step 0")


def _require_same_engine(checkpoint: Path, manifest: dict[str, Any], config: TrainConfig, zero_stage: int) -> None:
    """Raise CheckpointError unless an engine of this run can load the state that a checkpoint's manifest tells of."""
    if manifest["world_size"] != world_size():
        raise CheckpointError(
            f"{checkpoint} was saved by {manifest['world_size']} ranks, this run has {world_size()}: start as many"
        )

    # Stages 1 and 2 keep their states alike. What a manifest does not say is taken to be as in this run.
    saved_stage = manifest.get("zero_stage", zero_stage)
    if saved_stage != zero_stage and {saved_stage, zero_stage} != {1, 2}:
        raise CheckpointError(
            f"{checkpoint} was saved under ZeRO stage {saved_stage}, this run's --deepspeed says {zero_stage}: give a "
            f"file of stage {saved_stage}, or set init_weights to {checkpoint} to go on from its weights alone"
        )
    saved_dtype, dtype = manifest.get("dtype", _dtype_name(config)), _dtype_name(config)
    if saved_dtype != dtype:
        raise CheckpointError(
            f"{checkpoint} was saved in {saved_dtype}, this run trains in {dtype}: set mixed_precision to "
            + {"bfloat16": "bf16", "float16": "fp16"}.get(saved_dtype, "no")
        )


def _require_same_config(checkpoint: Path, config: TrainConfig, step: int) -> None:
    """Compare a run's config with that of the checkpoint of a step, from which it is to go on.

    Raises:
        CheckpointError: a key of MUST_MATCH differs. Of one of MOVES_DATA, and of rates that change, the log warns.
    """
    saved = load_config(checkpoint / RUN_CONFIG)
    for key in MUST_MATCH:
        name, was, now = _difference(key, saved, config)
        if was != now:
            raise CheckpointError(f"{checkpoint}: {name} was {was}, this run's config says {now}: set {name} to {was}")
    for key in MOVES_DATA:
        if getattr(saved, key) != getattr(config, key):
            log.warning(f"{checkpoint}: {key} differs from the checkpoint's: the data goes on in another order")
    if warning := _schedule_change(saved, config, step):
        log.warning(f"{checkpoint}: {warning}")


def _schedule_change(saved: TrainConfig, config: TrainConfig, step: int) -> str | None:
    """Return how the learning rate changes where a run of config `saved` goes on after `step` with `config`, if at all.

    A run of a constant rate that only becomes longer changes nothing.
    """
    last = max(step, config.max_train_steps - 1)
    ahead = {step, (step + last) // 2, last}
    if all(learning_rate(saved, index) == learning_rate(config, index) for index in ahead):
        return None
    changes = []
    for key in SCHEDULE:
        if getattr(saved, key) != getattr(config, key):
            changes.append(f"{key} was {getattr(saved, key)}, now {getattr(config, key)}")
    return (
        f"learning_rate at step {step + 1} is {learning_rate(config, step):.3g}, at step {step} it was "
        f"{learning_rate(saved, step - 1):.3g}: {', '.join(changes)}"
    )


def _difference(key: str, saved: TrainConfig, config: TrainConfig) -> tuple[str, Any, Any]:
    """Return a key's name and its values in two configs; of `model`, only the first option that differs, if any."""
    was, now = getattr(saved, key), getattr(config, key)
    if key == "model":
        for option, value in was:
            if value != getattr(now, option):
                return f"model.{option}", value, getattr(now, option)
    return key, was, now


def load(engine: Any, ema: EMA | None, folder: Path) -> None:
    """Restore the weights, the optimizer and the averages from a checkpoint. Collective.

    Args:
        engine: DeepSpeed's engine around the network.
        ema: the average of its weights, if the run keeps one.
        folder: the checkpoint, as `find` returns it.

    Raises:
        CheckpointError: the state of this rank, or an average, is missing.
    """
    path, _ = engine.load_checkpoint(str(folder), tag="state", load_lr_scheduler_states=False)
    if path is None:
        raise CheckpointError(f"{folder}: DeepSpeed found no state/ of this rank to load")
    if ema:
        ema.load(folder / NETWORK / WEIGHTS_NAME)
    log.info(f"resumed from {folder}")


def _dtype_name(config: TrainConfig) -> str:
    """Return the name of the dtype that the network computes in, as "bfloat16"."""
    return str(training_dtype(config)).removeprefix("torch.")
