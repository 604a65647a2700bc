"""The loss plot of one run or of several, from their metrics.jsonl and config.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..config.load import read_yaml
from ..errors import DataError
from ..labels import label_text
from ..run_folder import METRICS, RUN_CONFIG
from .run_records import Run, names_of, read_by_step, smoothed, spread, validation_title, with_stages

PARTS = {"": "#1f3b73", "_video": "#2a9d8f", "_image": "#e08a1e"}
"""The colours of a single run's total loss and of its parts, by the end of their keys."""
STYLES = ("-", "--", ":")
"""The lines of the first ten runs, which ten colours tell apart, of the next ten, and so on."""


def plot_losses(runs: Sequence[str | Path], png: str | Path) -> None:
    """Write the picture of `draw_losses`; its folder is created if missing.

    Raises:
        ConfigError, DataError: as there.
    """
    figure = draw_losses(runs)
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png")


def draw_losses(runs: Sequence[str | Path]) -> Figure:
    """Draw the losses and the learning rate of one run, or of several beside each other, over their steps.

    1. The training loss (faint: of each step, thick: smoothed). A single run shows its video and image parts too, where
       it has both. Several runs show the total, or, where they do not add up the same, the video part alone.
    2. The validation loss, in a panel of its own: of other weights, at fixed timesteps, it does not compare with that.
    3. The learning rate.

    Args:
        runs: folders with metrics.jsonl, and config.yaml for the weight of the images. The lines of metrics.jsonl are
            JSON objects with "step" and some of "loss", "loss_video", "loss_image", the same after "validation_", and
            "lr". Where a step occurs twice, as after a resume, the later line counts. Damaged lines are left out.

    Returns:
        A figure of 1200 pixels by 660 to 900, with a panel for each of these.

    Raises:
        ConfigError: a run is given twice, or its config.yaml cannot be read.
        DataError: a file cannot be read, or a run has no loss.
    """
    read = _runs([Path(run) for run in runs])
    validated = any(len(run.series("validation_loss")[0]) for run in read)
    heights = [3.2, 2.0, 0.9] if validated else [3.2, 0.9]
    figure = Figure(figsize=(10, 1.4 + sum(heights)), dpi=120, layout="constrained")
    training, *middle, rate = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _plot_loss(training, read, "loss")
    training.set_title("training loss", loc="left", fontsize=10)
    for axes in middle:
        _plot_loss(axes, read, "validation_loss")
        axes.set_title(label_text(validation_title(read)), loc="left", fontsize=10)

    for at, run in enumerate(read):
        rate.plot(*run.series("lr"), linewidth=1.2, **(_style(at) if len(read) > 1 else {"color": "0.45"}))
    rate.set_title("learning rate", loc="left", fontsize=10)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.set_xlabel("step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (training, *middle, rate):
        axes.grid(True, which="both", color="0.9")
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
    if len(read) == 1:
        figure.suptitle(label_text(f"{read[0].name}, step {max(read[0].records)}"), fontsize=12)
    return figure


def _runs(folders: list[Path]) -> list[Run]:
    """Read the runs. Several are named by where they lie below the folder that holds all of them.

    Raises:
        ConfigError, DataError: as `plot_losses` says.
    """
    runs = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        config = read_yaml(folder / RUN_CONFIG) if (folder / RUN_CONFIG).exists() else {}
        run = Run(name, read_by_step(folder / METRICS), config)
        if not any(len(run.series(loss)[0]) for loss in ("loss", "validation_loss")):
            raise DataError(f"{folder / METRICS}: no line has a loss; wanted the metrics.jsonl of a run")
        runs.append(run)
    with_stages(runs)
    return runs


def _plot_loss(axes: Axes, runs: list[Run], loss: str) -> None:
    """Draw "loss" or "validation_loss" of all runs, with a legend that says what it adds up and where it ends."""
    shown = [run for run in runs if len(run.series(loss)[0])]
    totals = {run.total(loss) for run in shown}
    heights = []
    for run in shown:
        joint = "+" in run.total(loss)
        if len(runs) == 1:
            curves = {loss + part: {"color": colour} for part, colour in PARTS.items()} if joint else {loss: {}}
            curves[loss] = {"color": PARTS[""]}
        else:
            curves = {loss + ("_video" if joint and len(totals) > 1 else ""): _style(runs.index(run))}
        for order, (key, style) in enumerate(curves.items()):
            part = key.removeprefix(loss).removeprefix("_") or run.total(loss)
            what = part if len(runs) == 1 else f"{run.name}: {part}"
            heights.append(_plot_curve(axes, *run.series(key), what, loss == "loss", 5 - order / 4, style))

    # A loss that falls by much is read on a logarithmic axis, with plain numbers on it.
    ratio = spread(heights)
    if ratio > 4:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if ratio < 1000 else (1,)))
        axes.yaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10))))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if shown:
        axes.legend(loc="upper right", framealpha=0.9, fontsize=9)


def _plot_curve(
    axes: Axes, steps: np.ndarray, values: np.ndarray, what: str, smooth: bool, order: float, style: dict[str, Any]
) -> np.ndarray:
    """Draw a curve, smoothed over its faint values or as points, and return its heights.

    Args:
        axes: where to.
        steps: (n,).
        values: (n,), the loss at each step.
        what: its place in the legend, where the last height follows.
        smooth: whether to smooth, else each value is a point.
        order: the larger, the further in front.
        style: colour and line, as matplotlib has them.
    """
    if smooth:
        axes.plot(steps, values, linewidth=0.6, alpha=0.25, zorder=2, **style)
        values = smoothed(values)
        marks: dict[str, Any] = {"linewidth": 2}
    else:
        marks = {"linewidth": 1.4, "marker": "o", "markersize": 4}
    axes.plot(steps, values, label=label_text(f"{what} = {values[-1]:.4g}"), zorder=order, **marks, **style)
    return values


def _style(at: int) -> dict[str, Any]:
    """Return the colour and line of one of several runs, by its place among them."""
    return {"color": f"C{at % 10}", "linestyle": STYLES[at // 10 % len(STYLES)]}
