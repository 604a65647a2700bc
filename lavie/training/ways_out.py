"""What makes a run fit into less memory: the keys to change, those first that leave its results as they are."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..config.stages import STAGES
from ..config.train import TrainConfig
from ..models.live_bytes import fewest
from .deepspeed import offloads, zero_stage
from .memory import memory_of

Change = tuple[str, dict[str, Any], dict[str, Any]]
"""What to write on the command line, and the values that it changes: of the config, by keys with dots for its section
`data`, and of DeepSpeed's settings."""


def ways_out(config: TrainConfig, settings: dict[str, Any], ranks: int, limit: float) -> list[Change]:
    """Return the mildest changes with which a run fits in `limit` bytes; empty if none suffice.

    Those come first that leave the results as they are.
    """
    changes = list(changes_of(config, settings))
    return fewest(changes, lambda chosen: peak_with(config, settings, ranks, chosen) <= limit)


def changes_of(config: TrainConfig, settings: dict[str, Any]) -> Iterator[Change]:
    """Yield what would take less memory and is not set yet."""
    if not config.gradient_checkpointing:
        yield "gradient_checkpointing=true", {"gradient_checkpointing": True}, {}
    if config.train_batch_size > 1:
        micro = config.gradient_accumulation_steps * config.train_batch_size
        changed = {"train_batch_size": 1, "gradient_accumulation_steps": micro}
        yield f"train_batch_size=1 gradient_accumulation_steps={micro}", changed, {}
    if config.use_ema and config.ema_device == "auto" and not offloads(settings):
        yield "ema_device=cpu", {"ema_device": "cpu"}, {}
    if not offloads(settings) and zero_stage(settings) == 3 and config.optimizer == "adamw":
        yield "--deepspeed configs/zero3_offload.json", {}, {"offload_optimizer": {"device": "cpu"}}
    data = config.data
    if data.validation or config.validation_prompts:
        none: dict[str, Any] = {"data.validation": (), "validation_prompts": ()}
        yield "data.validation=[] validation_prompts=[]", none, {}
    if data.cache is None and STAGES[config.stage].cacheable and not data.moving_images:
        cuts = data.cuts or 1
        yield f"data.cache=FOLDER data.cuts={cuts}", {"data.cache": "FOLDER", "data.cuts": cuts}, {}
    if config.optimizer == "adamw" and not offloads(settings) and zero_stage(settings) != 3:
        yield "optimizer=adamw_8bit", {"optimizer": "adamw_8bit"}, {}
    if config.use_ema and not offloads(settings):
        yield "use_ema=false", {"use_ema": False}, {}
    if config.trainable == "all":
        yield "trainable=temporal", {"trainable": "temporal"}, {}
    if data.num_images and not data.images_alone:
        yield "data.num_images=0", {"data.num_images": 0}, {}
    if not data.buckets:  # they have sizes of their own
        yield from _smaller(config)


def _smaller(config: TrainConfig) -> Iterator[Change]:
    """Yield clips of half the frames and of half the height and width, as far as the stage can train on them."""
    data, stage, stride, interval = config.data, STAGES[config.stage], config.latent_stride, config.keyframe_interval
    frames = data.num_frames // 2
    if stage.condition == "key_frames":
        frames = frames // interval * interval + 1
    least = 3 if config.condition == "frames" else 2
    if least <= frames < data.num_frames:
        yield f"data.num_frames={frames}", {"data.num_frames": frames}, {}
    height, width = (side // 2 // stride * stride for side in (data.height, data.width))
    if min(height, width) > 0:
        changed = {"data.height": height, "data.width": width}
        yield f"data.height={height} data.width={width}", changed, {}


def peak_with(config: TrainConfig, settings: dict[str, Any], ranks: int, changes: list[Change]) -> float:
    """Return the bytes that a rank of a run holds at its peak with some changes."""
    zero = dict(settings.get("zero_optimization", {}))
    for _, _, of_settings in changes:
        zero |= of_settings
    return memory_of(changed_config(config, changes), {**settings, "zero_optimization": zero}, ranks).peak


def changed_config(config: TrainConfig, changes: Iterable[Change]) -> TrainConfig:
    """Return the config of a run with some changes."""
    top: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for _, values, _ in changes:
        for key, value in values.items():
            (data if key.startswith("data.") else top)[key.removeprefix("data.")] = value
    return config.model_copy(update={**top, "data": config.data.model_copy(update=data)})
