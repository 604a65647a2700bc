"""Whether a run may go on from a checkpoint: what must be as it was, what may change, and how the batch stays the same.

1. What the network is, what its loss means and what the state holds must be as in the checkpoint (MUST_MATCH).
2. Settings of the optimizer and of the schedule may change: they take effect with the first step, and are told.
3. Another number of ranks shares the same global batch, so that every step sees the samples it would have seen.
"""

from typing import Any

from pydantic import BaseModel

from ...config.train import TrainConfig
from ...distributed import log, world_size
from ...errors import CheckpointError
from ..optim import learning_rate
from ..precision import dtype_name

MUST_MATCH = (
    *("stage", "condition", "model", "trainable", "lora", "use_ema", "optimizer"),
    *("prediction_type", "snr_gamma", "rescale_betas_zero_snr", "autoencoder", "text_encoder", "keyframe_interval"),
)
"""Keys whose values a resumed run must have in common with its checkpoint."""
BATCH = ("train_batch_size", "gradient_accumulation_steps")
"""Keys that decide the global batch, with the number of ranks."""
MOVES_DATA = ("seed", "data")
"""Keys that decide the order of the data: a resumed run with another value goes on with other samples."""
MOVES_NOTHING = ("exclude", "validation", "num_workers", "timeout", "verify", "decoder", "cache", "remote")
"""Keys of `data` that do not: how samples are read, and what stands in for one that is left out."""
SCHEDULE = ("learning_rate", "lr_scheduler", "lr_warmup_steps", "max_train_steps")
"""Keys that decide the learning rate of a step: with another value it may jump where a run is resumed."""
FROM_HERE = (
    *("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "max_grad_norm", "ema_decay"),
    *("image_loss_weight", "caption_dropout", "timestep_sampling", "condition_noise_steps", "given", "degradation"),
    "pretrained_model_name_or_path",
)
"""Keys that may change, and count from the first step on."""


def require_same_engine(where: str, manifest: dict[str, Any], config: TrainConfig, zero_stage: int) -> None:
    """Check that an engine of this run can load a checkpoint's state.

    Args:
        where: the checkpoint, for the message.
        manifest: the checkpoint's.
        config: the run.
        zero_stage: the ZeRO stage of this run's DeepSpeed settings.

    Raises:
        CheckpointError: it cannot, or not without a key that says so.
    """
    require_same_dtype(where, manifest, config)
    saved = (manifest["world_size"], manifest["zero_stage"])
    if manifest["optimizer"] != "adamw" and saved != (world_size(), zero_stage):
        raise CheckpointError(
            f"{where} holds moments in 8 bits, in blocks of the {saved[0]} ranks under ZeRO stage {saved[1]} that "
            f"saved them, and this run has {world_size()} under stage {zero_stage}: start as many with the same "
            f"--deepspeed, or set init_weights to {where} to go on from its weights alone"
        )


def require_same_dtype(where: str, manifest: dict[str, Any], config: TrainConfig) -> None:
    """Raise CheckpointError if a checkpoint is of another dtype than a run, without a key that allows it."""
    dtype = dtype_name(config)
    if manifest["dtype"] != dtype and not config.allow_dtype_change:
        precision = {"bfloat16": "bf16", "float16": "fp16"}.get(manifest["dtype"], "no")
        raise CheckpointError(
            f"{where} was saved in {manifest['dtype']}, this run trains in {dtype}: set mixed_precision to "
            f"{precision}, or allow_dtype_change to true, with which later losses differ"
        )


def require_must_match(where: str, saved: TrainConfig, config: TrainConfig) -> None:
    """Raise CheckpointError if a key of MUST_MATCH differs between a checkpoint's config and a run's."""
    for key in MUST_MATCH:
        name, was, now = _difference(key, getattr(saved, key), getattr(config, key))
        if was != now:
            raise CheckpointError(f"{where}: {name} was {was}, this run's config says {now}: set {name} to {was}")


def require_same_config(where: str, saved: TrainConfig, config: TrainConfig, step: int) -> None:
    """Compare a run's config with that of the checkpoint of a step, from which it is to go on.

    Raises:
        CheckpointError: a key of MUST_MATCH differs. What else differs and matters is told in the log.
    """
    require_must_match(where, saved, config)
    for key in moved_data(saved, config):
        log.warning(f"{where}: {key} differs from the checkpoint's: the data goes on in another way")
    if warning := _schedule_change(saved, config, step):
        log.warning(f"{where}: {warning}")
    changes = [key for key in FROM_HERE if getattr(saved, key) != getattr(config, key)]
    for key in changes:
        name, was, now = _difference(key, getattr(saved, key), getattr(config, key))
        log.warning(f"{where}: {name} was {was}, from step {step + 1} on it is {now}")


def same_global_batch(where: str, manifest: dict[str, Any], saved: TrainConfig, config: TrainConfig) -> TrainConfig:
    """Return the config of a run with the global batch of its checkpoint, whatever its number of ranks.

    Micro-batches stay at most as large as they were asked for, which is what the memory of a rank holds. A run that
    asks for another batch than the checkpoint's run did gets it.

    Args:
        where: the checkpoint, for messages.
        manifest: the checkpoint's.
        saved: the config of the checkpoint's run, as its user wrote it down.
        config: the run, as its user wrote it down.

    Raises:
        CheckpointError: the ranks cannot share the batch.
    """
    batch, ranks = manifest["global_batch"], world_size()
    same = all(getattr(saved, key) == getattr(config, key) for key in BATCH)
    asked = config.train_batch_size * config.gradient_accumulation_steps * ranks
    if not same and batch != asked:
        log.warning(f"{where} was trained with {batch} clips a step, this run takes {asked}, and so other samples")
    if not same or batch == asked:
        return config
    if batch % ranks:
        counts = [n for n in range(1, batch + 1) if batch % n == 0]
        raise CheckpointError(
            f"{where}: {ranks} ranks cannot share the batch of {batch} clips with which it was trained: start "
            f"{', '.join(map(str, counts[:8]))} ranks, or set train_batch_size or gradient_accumulation_steps for "
            "another batch"
        )
    share = batch // ranks
    micro = max(n for n in range(1, config.train_batch_size + 1) if share % n == 0)
    log.info(
        f"{where} was trained with {batch} clips a step: each of {ranks} ranks takes {micro} of them "
        f"{share // micro} times (train_batch_size, gradient_accumulation_steps)"
    )
    return config.model_copy(update={"train_batch_size": micro, "gradient_accumulation_steps": share // micro})


def moved_data(saved: TrainConfig, config: TrainConfig) -> list[str]:
    """Return the keys of MOVES_DATA, as data.fps, whose values differ between two configs."""
    keys = [key for key in MOVES_DATA if key != "data" and getattr(saved, key) != getattr(config, key)]
    options = ((name, value) for name, value in saved.data if name not in MOVES_NOTHING)
    return keys + [f"data.{name}" for name, value in options if value != getattr(config.data, name)]


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


def _difference(key: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Return a key's name and its two values; of a section, the first option that differs, if any."""
    if isinstance(was, BaseModel) and isinstance(now, BaseModel):
        for option, value in was:
            if value != getattr(now, option):
                return f"{key}.{option}", value, getattr(now, option)
    return key, was, now
