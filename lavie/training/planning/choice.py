"""Other ways to run the same steps on the same GPUs: ZeRO stages, micro-batches, checkpointing; and the best."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ...config.shipped import find_config
from ...config.train import TrainConfig
from ...models.live_bytes import GIB
from ..deepspeed import zero_stage
from ..fit import usable_bytes
from ..memory import Memory, memory_of
from .forecast import HPZ, MICS, Cluster, Forecast, forecast

MICRO_BATCHES = (1, 2, 4, 8)
"""Sizes of a micro-batch that are tried."""
COUNTS = tuple(2**power for power in range(11))
"""Numbers of GPUs, up to 1,024."""


class Way(NamedTuple):
    """One way to run a step."""

    name: str
    """What differs from the run as it is, as one would write it down; "" for nothing."""
    config: TrainConfig
    settings: dict[str, Any]
    memory: Memory
    time: Forecast

    def fits(self, cluster: Cluster) -> bool:
        """Return whether it fits the memory of the GPUs."""
        return self.memory.peak <= usable_bytes(cluster.gpu.gigabytes)


def way(name: str, config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> Way:
    """Return a way with its memory and time."""
    shared = cluster.ranks
    if settings.get("zero_optimization", {}).get(MICS, -1) > 0:
        shared = min(shared, cluster.gpus_per_node)
    memory = memory_of(config, settings, shared)
    copy = settings.get("zero_optimization", {}).get(HPZ, 1)
    if copy > 1 and cluster.nodes > 1:
        memory.held["weights of the node"] = memory.held["weights"] * cluster.ranks / cluster.gpus_per_node
    return Way(name, config, settings, memory, forecast(config, settings, cluster))


def with_stage(settings: dict[str, Any], stage: int, **zero: int) -> dict[str, Any]:
    """Return DeepSpeed's settings with another ZeRO stage and more keys of zero_optimization.

    Another stage has the section of the shipped file for it; 1 is written as 2 is. Stage 1 sends gradients in the dtype
    in which they add up, as `fill_accumulation` has it.
    """
    section = settings.get("zero_optimization", {})
    if stage != zero_stage(settings):
        section = _shipped(max(stage, 2))
    changed = {**settings, "zero_optimization": {**section, "stage": stage, **zero}}
    changed.pop("communication_data_type", None)
    if stage == 1 and settings.get("gradient_accumulation_steps", 1) > 1:
        changed["communication_data_type"] = settings.get("data_types", {}).get("grad_accum_dtype", "fp32")
    return changed


@cache
def _shipped(stage: int) -> dict[str, Any]:
    """Return the section zero_optimization of configs/zero2.json or zero3.json."""
    path = find_config(f"configs/zero{stage}.json", "--deepspeed")
    return dict(json.loads(Path(path).read_text())["zero_optimization"])


def stages(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> list[Way]:
    """Return a run under ZeRO-1, 2 and 3, and on several nodes with weights or states that every node holds."""
    ways = [way(f"ZeRO-{stage}", config, with_stage(settings, stage), cluster) for stage in (1, 2, 3)]
    if cluster.nodes > 1:
        size = cluster.gpus_per_node
        ways.append(way("ZeRO-3, hpZ", config, with_stage(settings, 3, **{HPZ: size}), cluster))
        ways.append(way("ZeRO-3, MiCS", config, with_stage(settings, 3, **{MICS: size}), cluster))
    return ways


def choices(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> Iterator[Way]:
    """Yield ways to take the same clips in a step: stages 2 and 3, sizes of a micro-batch, checkpointing or not."""
    clips = config.train_batch_size * config.gradient_accumulation_steps
    for batch in MICRO_BATCHES:
        for checkpointing in (False, True):
            if clips % batch:
                continue
            of_batch = {"train_batch_size": batch, "gradient_accumulation_steps": clips // batch}
            changed = config.model_copy(update={**of_batch, "gradient_checkpointing": checkpointing})
            words = f"train_batch_size={batch} gradient_accumulation_steps={clips // batch}"
            words += f" gradient_checkpointing={str(checkpointing).lower()}"
            for stage in (2, 3):
                named = f"--deepspeed configs/zero{stage}.json {words}"
                yield way(named, changed, with_stage({**settings, **_batch(settings, changed)}, stage), cluster)


def _batch(settings: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return DeepSpeed's keys of a config's batch."""
    return {
        "train_micro_batch_size_per_gpu": config.train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
    }


def at(cluster: Cluster, ranks: int) -> Cluster:
    """Return a cluster of the same kind with another number of GPUs; fewer than a node has stand in one node."""
    per_node = min(ranks, cluster.gpus_per_node)
    return cluster._replace(nodes=-(-ranks // per_node), gpus_per_node=per_node)


def fewest_gpus(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> int | None:
    """Return the fewest GPUs, a power of two, on which a run fits as it is; None if it fits on no number of them."""
    for ranks in COUNTS:
        if memory_of(config, settings, ranks).peak <= usable_bytes(cluster.gpu.gigabytes):
            return ranks
    return None


def advice(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> list[str]:
    """Return what would make a run fit, or faster, in sentences; all of it estimated."""
    now = way("", config, settings, cluster)
    lines = []
    fitting = [other for other in choices(config, settings, cluster) if other.fits(cluster)]
    if not fitting:
        lines.append("no size of a micro-batch fits: see the keys that the memory's last line names")
    else:
        best = max(fitting, key=lambda other: (round(other.time.clips_per_second, 2), zero_stage(other.settings) == 2))
        gain = best.time.clips_per_second / now.time.clips_per_second
        if not now.fits(cluster) or gain > 1.02:
            lines.append(
                f"the same clips a step, {gain:.2f} times as fast, {best.memory.peak / GIB:.1f} GiB, "
                f"{best.time.bound}: {best.name}"
            )
        else:
            lines.append("no other ZeRO stage, micro-batch or checkpointing is faster by more than 2 %")
    fewest = fewest_gpus(config, settings, cluster)
    told = "fits on no number of these GPUs as it is" if fewest is None else f"fits as it is on {fewest} of these GPUs"
    lines.append(f"the run {told}{'' if fewest is None else ' and more'}")
    # A cache holds what clips were encoded to, and no stage that degrades the pixels of each visit can use one.
    if not config.data.cache and config.low_resolution is None and now.time.encoders > now.time.gpu / 10:
        share = now.time.encoders / now.time.gpu
        lines.append(f"encoding takes {share:.0%} of the GPU's time: data.cache=FOLDER, made by `lavie data cache`")
    if now.time.bound == "host-bound":
        lines.append("the host is slower than the GPU: a larger train_batch_size, configs/zero2.json, or faster cores")
    if cluster.nodes > 1 and zero_stage(settings) == 3:
        hpz, mics = stages(config, settings, cluster)[3:]
        for other, key in ((hpz, HPZ), (mics, MICS)):
            if other.fits(cluster) and other.time.step < 0.97 * now.time.step:
                lines.append(
                    f"{key}: {cluster.gpus_per_node} in DeepSpeed's zero_optimization would take "
                    f"{other.time.step / now.time.step:.0%} of the time; this project has not tried it"
                )
    return lines
