"""The picture of a study: preferences with their intervals beside chance, and the labels of each metric."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...files import replacing
from ...labels import label_text
from .key import LABELS, METRICS

COLOURS = {"bad": "#c8553d", "normal": "#d9d4c7", "good": "#2a9d8f"}
INK, PALE = "#1f3b73", "#9aa5bd"


def plot_study(result: Mapping[str, Any], png: Path) -> None:
    """Write the picture of `draw_study`; its folder is created if missing."""
    png.parent.mkdir(parents=True, exist_ok=True)
    with replacing(png) as temporary:
        draw_study(result).savefig(temporary, format="png")


def draw_study(result: Mapping[str, Any]) -> Figure:
    """Draw the shares of preferences with 95 % intervals, and below them the labels of each metric and model.

    Args:
        result: of `analyse`.

    Returns:
        A figure 1200 pixels wide.
    """
    pairs, rated = len(result["all"]["preferences"]), _is_rated(result)
    models = len(result["models"])
    heights = [0.9 + 0.62 * pairs] + [0.7 + 0.3 * len(METRICS) * (models + 0.6)] * rated
    figure = Figure(figsize=(10, 0.8 + sum(heights)), dpi=120, layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_preferences(panels[0], result)
    if rated:
        _draw_ratings(panels[1], result)
    figure.suptitle(label_text(f"{result['n']['raters']} raters, {result['n']['votes']} votes on pairs"), fontsize=12)
    return figure


def _is_rated(result: Mapping[str, Any]) -> bool:
    """Return whether any clip was rated."""
    every = [own for found in result["all"]["ratings"].values() for own in found["models"].values()]
    return any(own["ratings"] for own in every)


def _draw_preferences(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw each pair's share, of all raters and, where they differ, of the attentive, without ties too."""
    series = [("all", "all raters, ties half", INK, "o", 0.0, False)]
    if result["left_out"]["raters"]:
        series.append(("attentive", "attentive raters, ties half", "#e08a1e", "D", 0.22, False))
    series.append(("all", "all raters, without ties", PALE, "s", -0.22, True))
    names = []
    for group, label, colour, marker, shift, decided in series:
        pairs = result[group]["preferences"]
        names = [f"{pair['first']} > {pair['second']}" for pair in pairs]
        for at, pair in enumerate(pairs):
            found = pair["without_ties"] if decided else pair
            if found["share"] is None:
                continue
            y = -at + shift
            if found["interval"]:
                axes.plot(found["interval"], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
            [point] = axes.plot(
                [found["share"]],
                [y],
                marker,
                color=colour,
                markersize=8,
                markeredgecolor="white",
                zorder=3,
                linestyle="none",
            )
            if at == 0:
                point.set_label(label_text(label))
            if not shift:
                right = found["interval"][1] if found["interval"] else found["share"]
                axes.annotate(
                    label_text(f"{found['share']:.1%}"),
                    (right, y),
                    (9, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
    axes.axvline(0.5, color="0.45", linestyle="--", linewidth=1, zorder=1)
    axes.set_yticks([-i for i in range(len(names))], list(map(label_text, names)))
    axes.set_ylim(-len(names) + 0.35, 0.65)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("preferred, with 95 % intervals over raters and prompts", loc="left", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(series), fontsize=8, frameon=False)
    _tidy(axes)


def _draw_ratings(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the labels' shares as bars, with the interval of good at its edge."""
    models = result["models"]
    ticks, names, y = [], [], 0.0
    for metric, title in METRICS.items():
        for number, model in enumerate(models):
            found = result["all"]["ratings"][metric]["models"][model]
            start = 0.0
            for label in reversed(LABELS):
                part = found[label]["share"] or 0.0
                axes.barh(y, part, left=start, height=0.82, color=COLOURS[label], edgecolor="white", linewidth=0.8)
                if part >= 0.06:
                    ink = "0.15" if label == "normal" else "white"
                    axes.text(
                        start + part / 2, y, label_text(f"{part:.0%}"), ha="center", va="center", fontsize=8, color=ink
                    )
                start += part
            if around := found[LABELS[-1]]["interval"]:
                axes.plot(around, [y - 0.3, y - 0.3], color="0.15", linewidth=1.4)
            ticks.append(y)
            names.append(f"{title}   {model}" if number == 0 else model)
            y -= 1
        y -= 0.6
    axes.set_yticks(ticks, list(map(label_text, names)), fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(y + 1.1, 0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("labels; the line is the 95 % interval of good", loc="left", fontsize=10)
    handles = [axes.barh([0], [0], color=COLOURS[label]) for label in reversed(LABELS)]
    axes.legend(
        handles, list(reversed(LABELS)), loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, frameon=False
    )
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    """Take away what carries nothing."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
