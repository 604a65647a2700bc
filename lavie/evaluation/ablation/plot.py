"""The plot of an ablation: every seed in every arm, the means, and the verdicts."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...labels import label_text
from .analysis import by_seed
from .plan import LOSS, MS_PER_STEP, Ablation, is_share
from .results import Result
from .statistics import paired_t

ACROSS = 3
"""Panels in a row."""
PANEL = 3.6, 2.7
"""Width and height of a panel, in inches."""
COLOUR, FAINT = "#1f3b73", "0.72"


def plot(ablation: Ablation, results: Sequence[Result], png: Path) -> None:
    """Write a picture with a panel for each measure of the claims.

    A dot is a seed, a thin line joins the arms of one seed, a mark with a bar is a mean with its 95 % interval by
    Student's t. Only the paired differences decide claims: intervals of two arms may overlap and these not.
    """
    shown = list(dict.fromkeys(claim.measure for claim in ablation.claims))
    rows = -(-len(shown) // ACROSS)
    across = min(ACROSS, len(shown))
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * rows + 0.3), dpi=120, layout="constrained")
    panels = list(figure.subplots(rows, across, squeeze=False).flat)
    for axes, measure in zip(panels, shown, strict=False):
        _panel(axes, ablation, results, measure)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    seeds = len({result.seed for result in results})
    figure.suptitle(label_text(f"{ablation.title} ({seeds} seed{'s' if seeds != 1 else ''})"), fontsize=11)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png")


def _panel(axes: Axes, ablation: Ablation, results: Sequence[Result], measure: str) -> None:
    """Draw one measure of all arms."""
    values = {name: by_seed(results, name, measure) for name in ablation.arms}
    for seed in sorted({seed for found in values.values() for seed in found}):
        points = [(at, found[seed]) for at, found in enumerate(values.values()) if seed in found]
        axes.plot(*zip(*points, strict=True), color=FAINT, linewidth=0.8, marker="o", markersize=3.5, zorder=2)
    for at, found in enumerate(values.values()):
        numbers = list(found.values())
        if not numbers:
            continue
        around = paired_t(numbers)
        mean = float(np.mean(numbers))
        reach = [[mean - around[0]], [around[1] - mean]] if around else None
        axes.errorbar(at, mean, reach, fmt="D", color=COLOUR, markersize=5, capsize=4, linewidth=1.6, zorder=3)
    if is_share(measure):  # on one scale in all panels: small differences look small
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(label_text(_title(measure)), fontsize=9, loc="left")
    # Line by line, for a label's text has no line ends.
    labels = ["\n".join(map(label_text, wrap(arm.label, 13))) for arm in ablation.arms.values()]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(True, axis="y", color="0.9")
    axes.set_axisbelow(True)


def _title(measure: str) -> str:
    """Return what a panel is called."""
    if measure == MS_PER_STEP:
        return "ms per step"
    return measure.replace(LOSS, "loss on held-out clips").replace("_", " ").replace(".", ": ")
