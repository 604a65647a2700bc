"""One step of a run once more, sample by sample, to find the one that spoils it. Nothing of the run is changed."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from ..config.data import DataConfig
from ..config.load import load_config
from ..config.train import TrainConfig
from ..data.feed.batches import Batch
from ..data.feed.loader import build_loader
from ..data.feed.share import Share
from ..distributed import barrier, gather_objects, is_main, log, rank, world_size
from ..errors import ConfigError
from ..manifest import fault_of, read_manifest
from ..models.backends import set_backends
from ..models.lora.adapter import draw_dropout
from ..models.trainable import set_trainable
from ..models.unet import VideoUNet
from ..run_folder import RUN_CONFIG, checkpoints, is_checkpoint
from .blame import excluding, spoilt_keys
from .checkpoint.compare import moved_data
from .gradient import norm_of
from .objective import Objective
from .open_caches import open_caches
from .trainer import Trainer
from .validate import whole_network


class Row(NamedTuple):
    """What one row of the step came to alone."""

    position: int
    rank: int
    """Who had it."""
    loss: float
    loss_video: float
    loss_image: float
    grad_norm: float
    """The norm of the gradient of its loss, before clipping."""
    keys: list[str]
    """The clip's, then each image's."""
    spoilt: list[str]
    """Those of them whose part of the row is not finite."""


def replay(config: TrainConfig, deepspeed_json: str | Path, step: int) -> str:
    """Return a table of the samples of a step, with their losses and gradient norms, and what it says. Collective.

    The weights are those of the newest checkpoint from before the step, or those that the run starts with. A sample
    that is bad in itself is so with either. The step's samples and all random numbers are those of the run, for which
    as many ranks are needed as the run has.

    Args:
        config: of the run.
        deepspeed_json: DeepSpeed's settings, those of the run.
        step: the step, from 1.

    Raises:
        LavieError: as `Trainer` does; or there is no such step, or its samples were others.
    """
    if not 1 <= step <= config.max_train_steps:
        raise ConfigError(f"--replay {step}: wanted a step from 1 to max_train_steps, {config.max_train_steps}")
    if not Path(config.output_dir).is_dir():
        raise ConfigError(f"--replay {step}: output_dir {config.output_dir} is no folder: set it to that of the run")
    checkpoint = _newest_before(config, step)

    # The trainer writes into a folder of its own, which is deleted: the run may go on meanwhile.
    folder = Path(config.output_dir) / f".replay-{step}"
    quiet = {
        "output_dir": str(folder),
        "resume_from_checkpoint": str(checkpoint) if checkpoint else None,
        "report_to": (),
        "validation_prompts": (),
        "eval": config.eval.model_copy(update={"steps": None}),
    }
    try:
        with Trainer(config.model_copy(update=quiet), deepspeed_json) as trainer:
            if checkpoint:
                _require_same_samples(checkpoint, trainer.config)
            trainer.batches.close()
            rows = gather_objects(_rows(trainer, step))
            barrier()
    finally:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
    origin = checkpoint or "the start of the run: there is no checkpoint from before the step"
    return _text(step, str(origin), sorted(row for of_rank in rows for row in of_rank), config.data)


def _newest_before(config: TrainConfig, step: int) -> Path | None:
    """Return the newest checkpoint from before a step whose files have their sizes; None where there is none.

    A run that has none of its own yet may have begun with that of another run.
    """
    begun = config.resume_from_checkpoint
    places = [config.output_dir, *([begun] if begun not in (None, "auto", "latest") else [])]
    for place in places:
        found = [Path(place)] if is_checkpoint(place) and place != config.output_dir else checkpoints(place)
        for folder in reversed(found):
            if fault := fault_of(folder, hashes=False):
                log.warning(f"{fault}: an older one is taken")
            elif read_manifest(folder)["step"] < step:
                return folder
    return None


def _require_same_samples(checkpoint: Path, config: TrainConfig) -> None:
    """Raise ConfigError if the run that saved a checkpoint had other rows in a step than this one has."""
    manifest = read_manifest(checkpoint)
    ranks, was = manifest["world_size"], manifest["global_batch"]
    now = config.train_batch_size * config.gradient_accumulation_steps * world_size()
    if was != now:
        raise ConfigError(
            f"{checkpoint} is of a run with {was} rows in a step, of {ranks} ranks; here a step has {now}, of "
            f"{world_size()} ranks, and so other samples: start as many ranks, with the batch sizes of the run"
        )
    if moved := moved_data(load_config(checkpoint / RUN_CONFIG), config):
        raise ConfigError(
            f"{checkpoint} is of a run with another {', '.join(moved)}, and so other samples: give the config of the "
            f"run, {checkpoint / RUN_CONFIG}"
        )


def _rows(trainer: Trainer, step: int) -> list[Row]:
    """Return the rows that this rank has in a step, each computed alone. Collective."""
    config = trainer.config
    # A whole network on every rank: its gradient is that of the row alone, in every ZeRO stage.
    network = whole_network(trainer.engine.module, None, config, trainer.device).train()
    set_backends(network, kernels=config.kernels, attention=config.attention)
    if config.trainable == "lora":
        draw_dropout(network, config.seed, step)
    else:
        set_trainable(network.requires_grad_(True), config.trainable)
    network.gradient_checkpointing = config.gradient_checkpointing

    per_rank = config.train_batch_size * config.gradient_accumulation_steps
    share = Share(
        seed=config.seed,
        train_batch_size=1,
        gradient_accumulation_steps=per_rank,
        rank=rank(),
        world_size=world_size(),
    )
    batches = build_loader(
        config.data,
        trainer.buckets,
        share,
        start_step=step - 1,
        degradation=config.low_resolution,
        caches=open_caches(config),
        device=trainer.device,
    )
    with closing(batches):
        return [_row(next(batches), network, trainer.objective) for _ in range(per_rank)]


def _row(batch: Batch, network: VideoUNet, objective: Objective) -> Row:
    """Return what a micro-batch of one row comes to, and leave the network without a gradient."""
    inputs = objective.training_inputs(batch)
    loss = objective.loss(network, inputs)
    loss.total.backward()
    norm = float(norm_of(network))
    network.zero_grad(set_to_none=True)
    [position], [keys] = batch["positions"].tolist(), batch["keys"]
    gradient = inputs.sample.grad
    spoilt = [] if gradient is None else list(spoilt_keys(gradient[0], keys))
    if not spoilt and not (loss.total.isfinite() and torch.tensor(norm).isfinite()):
        spoilt = keys
    total, video, image = (part.item() for part in loss)
    return Row(position, rank(), total, video, image, norm, keys, spoilt)


def _text(step: int, origin: str, rows: Sequence[Row], data: DataConfig) -> str:
    """Return the table of a step's rows, and whom it finds guilty.

    Args:
        step: the step.
        origin: where the weights are from.
        rows: of all ranks, by their positions.
        data: the run's.
    """
    lines = [
        f"step {step}, row by row, with the weights of {origin}",
        f"{'position':>10} {'rank':>5} {'loss':>11} {'video':>11} {'images':>11} {'grad norm':>11}  finite  samples",
    ]
    for row in rows:
        numbers = " ".join(f"{x:11.4g}" for x in (row.loss, row.loss_video, row.loss_image, row.grad_norm))
        finite = "NO" if row.spoilt else "yes"
        lines.append(f"{row.position:10} {row.rank:5} {numbers}  {finite:6}  {', '.join(row.keys)}")

    guilty = [row for row in rows if row.spoilt]
    if guilty:
        keys = dict.fromkeys(key for row in guilty for key in row.spoilt)
        lines += [f"not finite at position {row.position}: {', '.join(row.spoilt)}" for row in guilty]
        return "\n".join([*lines, f"to leave out what comes again: {excluding(keys, data)}"])
    for name in ("loss", "grad_norm"):
        largest, usual = max(rows, key=lambda row: getattr(row, name)), median(getattr(row, name) for row in rows)
        lines.append(
            f"all are finite; the largest {name} is that of position {largest.position}, {getattr(largest, name):.4g} "
            f"with a median of {usual:.4g}: {', '.join(largest.keys)}"
        )
    return "\n".join(lines)
