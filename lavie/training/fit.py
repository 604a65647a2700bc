"""On which GPUs a run fits, which key to turn where it does not, and how long it might take: computed, not measured."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..config.stages import STAGES
from ..config.train import TrainConfig
from ..models.live_bytes import GIB, fewest
from .cost import PEAK_FLOPS, forward_flops
from .deepspeed import offloads, zero_stage
from .memory import Memory, memory_of

USABLE = 0.9
"""Share of a GPU's memory that tensors can take: CUDA's context, workspaces of kernels and gaps between tensors need
the rest. Our assumption."""
CARDS = (24, 48, 80)
"""Sizes of GPUs in GB, as they are sold."""
MFU = 0.25
"""Share of the peak rate at which a network of convolutions trains: our assumption. Published runs of Stable Diffusion
on A100s come to 0.28."""
TIMED = ("RTX 4090", "A100", "H100")
"""GPUs for which the time is estimated: words of their names in PEAK_FLOPS."""

Change = tuple[str, dict[str, Any], dict[str, Any]]
"""What to write on the command line, and the values that it changes: of the config, by keys with dots for its section
`data`, and of DeepSpeed's settings."""


def memory_lines(config: TrainConfig, settings: dict[str, Any], ranks: int) -> list[str]:
    """Return lines about what a rank holds, moment by moment, and on which GPUs that fits.

    Args:
        config: the run.
        settings: DeepSpeed's, complete.
        ranks: the number of ranks.
    """
    memory = memory_of(config, settings, ranks)
    lines = [f"{name}: {size / GIB:.2f} GiB per rank" for name, size in memory.held.items() if size]
    lines.append(f"states in all: {memory.states / GIB:.2f} GiB per rank")
    for moment, parts in memory.moments.items():
        told = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        lines.append(f"on top in {moment}: {sum(parts.values()) / GIB:.2f} GiB ({told})" if told else f"{moment}: 0")
    lines.append(f"peak: {memory.peak / GIB:.2f} GiB per rank, in {memory.worst}; computed, not measured")
    return lines + [verdict(config, settings, ranks, card, memory) for card in CARDS]


def verdict(config: TrainConfig, settings: dict[str, Any], ranks: int, card: int, memory: Memory) -> str:
    """Return whether a run fits a card of so many GB, and otherwise what to change first."""
    limit = card * USABLE * GIB
    text = f"{card} GB: {memory.peak / GIB:.1f} GiB of the {limit / GIB:.1f} GiB that tensors can take: "
    if memory.peak <= limit:
        return text + "fits"
    changes = ways_out(config, settings, ranks, limit)
    if not changes:
        return text + "does not fit, nor with any single key: give it more GPUs (configs/zero3.json)"
    names = [name for name, _, _ in changes]
    return text + f"does not fit; it does with {' '.join(names)} ({_changed(config, settings, ranks, changes):.1f} GiB)"


def ways_out(config: TrainConfig, settings: dict[str, Any], ranks: int, limit: float) -> list[Change]:
    """Return the mildest changes with which a run fits in `limit` bytes; empty if none suffice.

    Those come first that leave the results as they are.
    """
    changes = list(_changes(config, settings))
    return fewest(changes, lambda chosen: _changed(config, settings, ranks, chosen) * GIB <= limit)


def _changes(config: TrainConfig, settings: dict[str, Any]) -> Iterator[Change]:
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
    if data.num_images:
        yield "data.num_images=0", {"data.num_images": 0}, {}
    if not data.buckets:  # they have sizes of their own
        yield from _smaller(config)


def _smaller(config: TrainConfig) -> Iterator[Change]:
    """Yield clips of half the frames and of half the height and width, as far as the stage can train on them."""
    data, stage, stride, interval = config.data, STAGES[config.stage], config.latent_stride, config.keyframe_interval
    frames = data.num_frames // 2
    if stage.condition == "key_frames":
        frames = frames // interval * interval + 1
    if 1 < frames < data.num_frames:
        yield f"data.num_frames={frames}", {"data.num_frames": frames}, {}
    height, width = (side // 2 // stride * stride for side in (data.height, data.width))
    if min(height, width) > 0:
        changed = {"data.height": height, "data.width": width}
        yield f"data.height={height} data.width={width}", changed, {}


def _changed(config: TrainConfig, settings: dict[str, Any], ranks: int, changes: list[Change]) -> float:
    """Return the peak in GiB of a run with some changes."""
    zero = dict(settings.get("zero_optimization", {}))
    for _, _, of_settings in changes:
        zero |= of_settings
    return memory_of(changed_config(config, changes), {**settings, "zero_optimization": zero}, ranks).peak / GIB


def changed_config(config: TrainConfig, changes: Iterable[Change]) -> TrainConfig:
    """Return the config of a run with some changes."""
    top: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for _, values, _ in changes:
        for key, value in values.items():
            (data if key.startswith("data.") else top)[key.removeprefix("data.")] = value
    return config.model_copy(update={**top, "data": config.data.model_copy(update=data)})


def time_lines(config: TrainConfig, ranks: int) -> list[str]:
    """Return lines about the work of a run and, with assumptions that they tell, about its time."""
    lines, per_clip = [], []
    for size in config.data.sizes:
        # Backward costs twice the forward, and what is computed again costs once more.
        passes = 3 + config.gradient_checkpointing
        forward = forward_flops(config, size)
        per_clip.append(forward * passes)
        again = f"; {passes * forward / 1e12:.3f} with what is computed again" if config.gradient_checkpointing else ""
        lines.append(
            f"work: {3 * forward / 1e12:.3f} TFLOP per clip of {size.name} with its images (forward and backward"
            f"{again})"
        )
    clips = config.train_batch_size * config.gradient_accumulation_steps * config.max_train_steps
    work = clips * sum(per_clip) / len(per_clip)
    hours = [f"{name} {work / PEAK_FLOPS[name] / MFU / 3600:.1f} h" for name in TIMED]
    lines.append(
        f"time of {config.max_train_steps} steps if {MFU:.0%} of the GPU's bf16 peak is reached (an assumption, not "
        f"measured), without encoding, validation or waiting for data: {', '.join(hours)}"
        + (f"; times {ranks} in GPU-hours" if ranks > 1 else "")
    )
    return lines
