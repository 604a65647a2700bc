"""The picture of a plan: how the rate of a GPU changes with their number, and what a step's time is made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...labels import label_text
from .forecast import Cluster, Forecast
from .report import efficiency

STYLES = {2: ("#1f3b73", "o"), 3: ("#e08a1e", "s")}
"""Colour and mark of each ZeRO stage."""
PARTS = {"GPU": "#2a9d8f", "host, beyond the GPU": "#7a1f5c", "communication": "#c1440e", "update": "#1f3b73"}
"""Parts of a step and their colours."""


def draw_scaling(rows: Mapping[int, Sequence[tuple[int, Forecast]]], stage: int, cluster: Cluster, png: Path) -> None:
    """Draw forecasts over the number of GPUs.

    Args:
        rows: of each ZeRO stage, from `scaling`.
        stage: the stage whose steps are taken apart.
        cluster: for the title.
        png: the file, of 1560 pixels by 600.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, times in rows.items():
        colour, mark = STYLES[number]
        shares = [100 * share for share in efficiency(times)]
        left.plot([ranks for ranks, _ in times], shares, color=colour, marker=mark, label=label_text(f"ZeRO-{number}"))
    left.set_xscale("log", base=2)
    left.set_ylim(0, 105)
    left.set_ylabel("rate of a GPU, % of the best")
    left.legend(loc="lower left")

    times = rows[stage]
    places, bottom = range(len(times)), [0.0] * len(times)
    for part, colour in PARTS.items():
        heights = [_part(time, part) for _, time in times]
        right.bar(places, heights, bottom=bottom, color=colour, label=label_text(part))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    right.set_xticks(places, [str(ranks) for ranks, _ in times])
    right.set_ylabel(label_text(f"milliseconds of a step, ZeRO-{stage}"))
    right.set_ylim(0, 1.25 * max(bottom))
    right.legend(loc="upper left", ncols=2)
    ticks = [ranks for ranks, _ in times]
    left.set_xticks(ticks, [str(ranks) for ranks in ticks])
    for axes in (left, right):
        axes.set_xlabel("GPUs")
        axes.grid(True, color="0.9")
        axes.set_axisbelow(True)
    title = f"{cluster.gpu.words}, {cluster.gpus_per_node} in a node: estimated, not measured"
    figure.suptitle(label_text(title), fontsize=12)
    figure.savefig(png, format="png")


def _part(time: Forecast, part: str) -> float:
    """Return the milliseconds of a part of a step."""
    gpu = time.gpu + time.exposed
    parts = {
        "GPU": time.micro_batches * time.gpu,
        "host, beyond the GPU": time.micro_batches * max(0.0, time.host - gpu),
        "communication": time.micro_batches * time.exposed + time.sent_once,
        "update": time.update,
    }
    return parts[part] * 1e3
