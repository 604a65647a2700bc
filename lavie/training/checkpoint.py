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

import torch
from safetensors import SafetensorError

from .. import __version__
from ..config.load import dump_yaml, load_config
from ..config.train import TrainConfig
from ..distributed import barrier, broadcast_object, is_main, log, world_size
from ..errors import CheckpointError, TrainingError
from ..models.weights import WEIGHTS_NAME, save_network
from ..run_folder import MANIFEST, NETWORK, RUN_CONFIG, checkpoint_folder, checkpoints, newest_checkpoint, step_of
from .deepspeed import training_dtype
from .ema import EMA, gathered_weights

MUST_MATCH = ("stage", "model", "trainable", "use_ema")
"""What a resumed run has in common with its checkpoint."""
MOVES_DATA = ("seed", "train_batch_size", "gradient_accumulation_steps", "data")
"""What decides the order of the data: a resumed run with another value goes on with other samples."""
FULL = 2**20
"""Bytes free on a disk to which no checkpoint can be written."""


def save(engine, ema: EMA | None, config: TrainConfig, step: int) -> Path:
    """Write `checkpoint-<step>/` after `step` steps, then drop the oldest past checkpoints_total_limit. Collective."""
    final = checkpoint_folder(config.output_dir, step)
    partial = final.with_name(f".{final.name}.partial")
    if is_main():
        for left in final.parent.glob(".checkpoint-*"):  # by a save that was cut short, of whatever step
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    _free(engine.module)
    with _room(partial):
        engine.save_checkpoint(str(partial), tag="state", save_latest=False)
    weights = gathered_weights(engine.module, ema)
    if is_main():
        with _room(partial):
            save_network(partial / NETWORK, config.model, {name: w.cpu() for name, w in weights.items()})
            (partial / RUN_CONFIG).write_text(dump_yaml(config), encoding="utf-8")
            manifest = {"step": step, "world_size": world_size(), "lavie": __version__, "torch": torch.__version__}
            manifest |= {"zero_stage": engine.zero_optimization_stage(), "dtype": _dtype(config)}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    barrier()
    if is_main():
        replaced = _aside(final) if final.exists() else None  # of the same step, from before this run was resumed
        os.replace(partial, final)
        limit = config.checkpoints_total_limit
        past = [p for p in checkpoints(final.parent) if step_of(p) <= step]  # later ones are of another try
        dropped = past[:-limit] if limit else []
        for old in [*([replaced] if replaced else []), *map(_aside, dropped)]:
            shutil.rmtree(old, ignore_errors=True)
    barrier()
    log.info(f"saved {final}")
    return final


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A TrainingError in place of what a full disk makes of writing there: torch and safetensors have errors of their
    own for it, without errno."""
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


def _aside(folder: Path) -> Path:
    """The folder under a name that is no checkpoint's: half deleted, it must not look like one."""
    return folder.rename(folder.with_name(f".{folder.name}.old"))


@torch.no_grad()
def _free(module: torch.nn.Module) -> None:
    """Empty the stand-ins of weights that ZeRO-3 shares, as a new engine has them.

    DeepSpeed leaves one element in those of leaf modules after a step, and would not load what it saved of that.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    for parameter in module.parameters():
        if getattr(parameter, "ds_status", None) is ZeroParamStatus.NOT_AVAILABLE:
            parameter.data = parameter.data.new_empty(0)


def find(config: TrainConfig, zero_stage: int) -> tuple[Path | None, int]:
    """The checkpoint that `resume_from_checkpoint` names and its step; None and 0 if it is not set. Collective.

    So too if it is "auto" and the run has none yet. Else raises CheckpointError if there is nothing to load, or it
    belongs to another network, number of ranks, dtype or kind of ZeRO stage.
    """
    if config.resume_from_checkpoint is None:
        return None, 0
    found = broadcast_object(_named(config) if is_main() else None)  # a shared disk may show each rank something else
    if isinstance(found, CheckpointError):
        raise found
    if found is None:
        log.info(f"resume_from_checkpoint is auto, and {config.output_dir} has no checkpoint: starts at step 0")
        return None, 0
    manifest = json.loads((found / MANIFEST).read_text())
    if manifest["world_size"] != world_size():
        raise CheckpointError(
            f"{found} was saved by {manifest['world_size']} ranks, this run has {world_size()}: start as many"
        )
    stage = manifest.get("zero_stage", zero_stage)
    if stage != zero_stage and {stage, zero_stage} != {1, 2}:  # these two keep their states alike
        raise CheckpointError(
            f"{found} was saved under ZeRO stage {stage}, this run's --deepspeed says {zero_stage}: give a file of "
            f"stage {stage}, or set init_weights to {found} to go on from its weights alone"
        )
    if (dtype := manifest.get("dtype", _dtype(config))) != _dtype(config):
        raise CheckpointError(
            f"{found} was saved in {dtype}, this run trains in {_dtype(config)}: set mixed_precision to "
            + ("bf16" if dtype == "bfloat16" else "no")
        )
    saved = load_config(found / RUN_CONFIG)
    for key in MUST_MATCH:
        was, now = getattr(saved, key), getattr(config, key)
        if key == "model":  # of which one line tells what differs
            key, was, now = next(
                ((f"model.{k}", v, getattr(now, k)) for k, v in was if v != getattr(now, k)), (key, was, now)
            )
        if was != now:
            raise CheckpointError(f"{found}: {key} was {was}, this run's config says {now}: set {key} to {was}")
    for key in MOVES_DATA:
        if getattr(saved, key) != getattr(config, key):
            log.warning(f"{found}: {key} differs from the checkpoint's: the data goes on in another order")
    return found, manifest["step"]


def load(engine, ema: EMA | None, folder: Path) -> None:
    """Restore the weights, the optimizer and the averages from what `find` found. Collective."""
    path, _ = engine.load_checkpoint(str(folder), tag="state", load_lr_scheduler_states=False)
    if path is None:
        raise CheckpointError(f"{folder}: DeepSpeed found no state/ of this rank to load")
    if ema:
        ema.load(folder / NETWORK / WEIGHTS_NAME)
    log.info(f"resumed from {folder}")


def _dtype(config: TrainConfig) -> str:
    return str(training_dtype(config)).removeprefix("torch.")


def _named(config: TrainConfig) -> Path | CheckpointError | None:
    asked = config.resume_from_checkpoint
    if asked == "auto" and not checkpoints(config.output_dir):
        return None
    try:
        return newest_checkpoint(config.output_dir if asked in (None, "auto", "latest") else asked)
    except CheckpointError as error:
        return CheckpointError(f"resume_from_checkpoint is {asked}: {error}. Set it to null to start at step 0")
