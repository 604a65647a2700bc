"""The text of `lavie plan`: memory, time, scaling, checkpoints and advice for a run on a cluster."""

from collections.abc import Sequence
from typing import Any

from ...config.train import TrainConfig
from ...models.live_bytes import GIB
from ..deepspeed import zero_stage
from ..fit import part_lines, verdict
from ..memory import checkpoint_bytes, memory_of, parameter_counts
from . import hardware
from .choice import COUNTS, advice, at, stages, with_stage
from .forecast import Cluster, Forecast, forecast

SCALED = (2, 3)
"""The ZeRO stages that are scaled up."""


def plan_lines(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> list[str]:
    """Return the lines of a plan.

    Args:
        config: the run, in the dtype that the GPUs compute in.
        settings: DeepSpeed's for as many ranks, complete.
        cluster: where it would run.
    """
    gpu, ranks = cluster.gpu, cluster.ranks
    memory, time = memory_of(config, settings, ranks), forecast(config, settings, cluster)
    lines = [
        f"{cluster.nodes} x {cluster.gpus_per_node} {gpu.words}, ZeRO-{zero_stage(settings)}, a micro-batch of "
        f"{config.train_batch_size}, {config.gradient_accumulation_steps} of them a step, {config.mixed_precision}",
        "An estimate, not measured: from counts and the constants of lavie/training/planning/hardware.py.",
        *["", "# memory of a GPU", *part_lines(memory)],
        verdict(config, settings, ranks, gpu.gigabytes, memory),
        *["", "# time of a step", *_time_lines(time)],
    ]
    lines += ["", "# by ZeRO stage", f"{'':14} {'peak, GiB':>10} {'step, s':>9} {'clips/s/GPU':>12}  bound"]
    for other in stages(config, settings, cluster):
        lines.append(
            f"{other.name:14} {other.memory.peak / GIB:10.1f} {other.time.step:9.3f} "
            f"{other.time.clips_per_second:12.2f}  {other.time.bound}"
        )
    lines += ["", "# scaling: the same batch on each GPU", *scaling_lines(config, settings, cluster)]
    lines += ["", "# checkpoints", *_checkpoint_lines(config, cluster)]
    return [*lines, "", "# advice", *(f"- {line}" for line in advice(config, settings, cluster))]


def _time_lines(time: Forecast) -> list[str]:
    """Return what a step's time is made of."""
    hidden = time.sent - time.exposed
    return [
        f"the GPU, a micro-batch: {time.gpu * 1e3:.0f} ms (network {time.network * 1e3:.0f}, encoders "
        f"{time.encoders * 1e3:.0f})",
        f"the host, beside it: {time.host * 1e3:.0f} ms",
        f"communication, a micro-batch: {time.sent * 1e3:.1f} ms, of which {hidden * 1e3:.1f} hide behind the GPU",
        f"once a step: communication {time.sent_once * 1e3:.1f} ms, update {time.update * 1e3:.1f} ms",
        f"a step: {time.step:.3f} s, {time.clips_per_second:.2f} clips/s and {time.tflops:.0f} TFLOP/s a GPU: "
        f"{time.bound}; without the wait for data",
    ]


def scaling(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> dict[int, list[tuple[int, Forecast]]]:
    """Return the forecasts for numbers of GPUs up to 1,024, by ZeRO stage."""
    rows: dict[int, list[tuple[int, Forecast]]] = {}
    for stage in SCALED:
        of_stage = with_stage(settings, stage)
        rows[stage] = [(ranks, forecast(config, of_stage, at(cluster, ranks))) for ranks in COUNTS]
    return rows


def efficiency(rows: Sequence[tuple[int, Forecast]]) -> list[float]:
    """Return the rate of a GPU at each number of GPUs, relative to the best of them."""
    best = max(time.clips_per_second for _, time in rows)
    return [time.clips_per_second / best for _, time in rows]


def scaling_lines(config: TrainConfig, settings: dict[str, Any], cluster: Cluster) -> list[str]:
    """Return the table of `scaling`: peak, step, and the share of the best rate of a GPU."""
    rows = scaling(config, settings, cluster)
    head = "".join(f"{f'ZeRO-{stage}: GiB':>13} {'step, s':>8} {'rate':>5} {'bound':>14}" for stage in rows)
    lines = [f"{'GPUs':>5}{head}"]
    shares = {stage: efficiency(times) for stage, times in rows.items()}
    for number, ranks in enumerate(COUNTS):
        line = f"{ranks:5}"
        for stage, times in rows.items():
            time, peak = times[number][1], memory_of(config, with_stage(settings, stage), ranks).peak
            line += f"{peak / GIB:13.1f} {time.step:8.3f} {shares[stage][number]:5.0%} {time.bound:>14}"
        lines.append(line)
    return lines


def _checkpoint_lines(config: TrainConfig, cluster: Cluster) -> list[str]:
    """Return the size of a checkpoint, how long the run stands still for it, and how long it is written."""
    total, trained, _ = parameter_counts(config)
    size = checkpoint_bytes(config, total, trained)
    stall, write = size / cluster.ranks / hardware.HOST_COPY, size / (hardware.DISK * cluster.nodes)
    return [
        f"{size / GIB:.2f} GiB each; the run stands still for about {stall:.2f} s, and it is written in about "
        f"{write:.0f} s beside the next steps (at {hardware.DISK / 1e9:g} GB/s a node, an assumption)"
    ]


def memory_table(config: TrainConfig, settings: dict[str, Any], counts: Sequence[int]) -> list[str]:
    """Return the Markdown table of peaks and, in brackets, of what is held at every moment, in GiB."""
    lines = ["| GPUs | ZeRO-1 | ZeRO-2 | ZeRO-3 |", "|---|---|---|---|"]
    for ranks in counts:
        cells = []
        for stage in (1, 2, 3):
            memory = memory_of(config, with_stage(settings, stage), ranks)
            cells.append(f"{memory.peak / GIB:.1f} ({memory.states / GIB:.1f})")
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    return lines
