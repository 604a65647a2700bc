"""The loss plot of a run, from its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..errors import DataError

COLOURS = {"loss": "#1f3b73", "loss_video": "#2a9d8f", "loss_image": "#e08a1e"}
LABELS = {"loss": "loss", "loss_video": "video", "loss_image": "image"}
WINDOW = 0.05
"""Share of the run over which the smoothed lines average."""


def plot_losses(metrics_jsonl: str | Path, png: str | Path) -> None:
    """Draw the curves of a run over its steps.

    These are the loss with its video and image parts (thin: raw, thick: smoothed), the validation loss and the learning
    rate. The parts are left out where either is always 0: the other is the loss then.

    Args:
        metrics_jsonl: lines are JSON objects with "step" and some of "loss", "loss_video", "loss_image",
            "validation_loss" and "lr". Where a step occurs twice, as after a resume, the later line counts.
        png: the picture; its folder is created if missing.

    Raises:
        DataError: a line is no such object, or none has a loss.
    """
    records = _read(Path(metrics_jsonl))
    figure = Figure(figsize=(10, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    titles, heights = _plot_training(axes, records)
    steps, values = _series(records, "validation_loss")
    if len(values):
        heights.append(values)
        axes.plot(steps, values, "o-", color="#c1121f", markersize=4, linewidth=1.2, label="validation", zorder=6)
        titles.append(f"validation {values[-1]:.4g}")
    if not heights:
        raise DataError(f"{metrics_jsonl}: no line has a loss; wanted the metrics.jsonl of a run")

    # A loss that falls by much is read on a logarithmic axis, with plain numbers on it.
    axes.set(xlabel="step", ylabel="loss", title=f"step {max(records)}:  " + ",  ".join(titles))
    if _spread(heights) > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="both", color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.01)

    _plot_learning_rate(axes, records)
    handles = [line for a in figure.axes for line in a.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="upper right", framealpha=0.9)
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png")


def _plot_training(axes: Axes, records: dict[int, dict[str, Any]]) -> tuple[list[str], list[np.ndarray]]:
    """Draw the training loss and its parts; return a title and the smoothed heights of each line."""
    titles, heights = [], []
    parts = _series(records, "loss_video")[1].any() and _series(records, "loss_image")[1].any()
    for order, (key, colour) in enumerate(COLOURS.items() if parts else [("loss", COLOURS["loss"])]):
        steps, values = _series(records, key)
        if not len(values):
            continue
        smooth = _smoothed(values)
        heights.append(smooth)
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3, zorder=2)
        axes.plot(steps, smooth, color=colour, linewidth=2, label=LABELS[key], zorder=5 - order / 4)
        titles.append(f"{LABELS[key]} {smooth[-1]:.4g}")
    return titles, heights


def _plot_learning_rate(axes: Axes, records: dict[int, dict[str, Any]]) -> None:
    """Draw the learning rate on an axis at the right, below the loss."""
    steps, values = _series(records, "lr")
    if not values.any():
        return
    right = axes.twinx()
    right.plot(steps, values, color="0.55", linewidth=1, linestyle="--", label="learning rate")
    right.set_ylabel("learning rate", color="0.45")
    right.set_ylim(0, 1.5 * values.max())
    right.tick_params(axis="y", colors="0.45")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """Return the values of each step, by step. A last line that is incomplete is left out.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object with a step.
    """
    records: dict[int, dict[str, Any]] = {}
    try:
        complete = path.read_text().rpartition("\n")[0]  # a running or killed run may be in the middle of a line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"metrics {path}: cannot be read: {error}") from None
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            record = json.loads(line)
            records.setdefault(int(record["step"]), {}).update(record)
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}, line {number}: wanted a JSON object with a step, got {line[:80]!r}") from None
    return dict(sorted(records.items()))


def _series(records: dict[int, dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that have a finite value of `key`, and those values."""
    pairs = [(step, record[key]) for step, record in records.items() if record.get(key) is not None]
    steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return each value averaged with its neighbours, of which there are fewer near the ends."""
    reach = max(1, int(len(values) * WINDOW / 2))
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(len(values))
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _spread(heights: list[np.ndarray]) -> float:
    """Return the largest over the smallest of values that are all positive; 0 if they are not."""
    values = np.concatenate(heights)
    return float(values.max() / values.min()) if values.min() > 0 else 0.0
