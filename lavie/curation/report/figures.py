"""The figures of a curation: the paper's figures 7 and 8 of one's own clips, the funnel, and the scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_select import Rule
from ...labels import label_text
from ..select.funnel import Funnel
from .numbers import BIN_SECONDS, LONGEST, MOST_WORDS, PAPER_AESTHETIC, SIDE_NAMES, Statistics

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

PALE, INK, PAPER, OTHER, LIMIT = "#b9c7e4", "#1f3b73", "#8a8a8a", "#c9c9c9", "#c1121f"
"""The colours of all clips, of kept ones, of the paper's two rows, and of thresholds."""
MOST_CATEGORIES = 12
"""Categories with a bar of their own; the rest shares one."""
ACROSS = 3
"""Plots in a row."""


def draw_general(everything: Statistics, kept: Statistics, png: Path) -> None:
    """Draw categories, durations and lengths of captions, the paper's figure 7, into a file."""
    figure, axes = _figure(1, ACROSS)
    names = list(everything.categories)[:MOST_CATEGORIES]
    both = []
    for statistics in (everything, kept):
        shown = [statistics.categories.get(name, 0) for name in names]
        rest = sum(statistics.categories.values()) - sum(shown)
        both.append([*shown, rest])
    labels = [label_text(name or "no category") for name in names] + [f"{len(everything.categories) - len(names)} more"]
    keep = slice(None, None if both[0][-1] else -1)
    _pairs(axes[0], labels[keep], both[0][keep], both[1][keep])
    axes[0].set_title("categories")
    edges = np.arange(len(everything.durations)) * BIN_SECONDS
    _steps(axes[1], edges, BIN_SECONDS, everything.durations, kept.durations)
    axes[1].set(title=label_text(f"duration (last bar: {LONGEST:g} s and longer)"), xlabel="seconds", ylabel="clips")
    _steps(axes[2], np.arange(len(everything.words)) - 0.5, 1, everything.words, kept.words)
    title = f"length of captions (last bar: over {MOST_WORDS})" if everything.captioned else "no clip has a caption"
    axes[2].set(title=label_text(title), xlabel="words", ylabel="clips")
    _legend(axes[1])
    figure.savefig(png)


def draw_quality(everything: Statistics, kept: Statistics, png: Path) -> None:
    """Draw aesthetic scores beside the paper's, and resolutions, its figure 8, into a file."""
    figure, axes = _figure(1, 2)
    rows: list[tuple[str, Sequence[float], str]] = [
        (name, shares, color) for (name, shares), color in zip(PAPER_AESTHETIC.items(), (PAPER, OTHER), strict=True)
    ]
    for name, statistics, color in (("all clips", everything, PALE), ("kept", kept, INK)):
        if statistics.aesthetic_shares:
            rows.append((name, statistics.aesthetic_shares, color))
    for i, (name, shares, color) in enumerate(rows):
        places = np.arange(3) + (i - (len(rows) - 1) / 2) * 0.8 / len(rows)
        bars = axes[0].bar(
            places, [100 * share for share in shares], 0.8 / len(rows), label=label_text(name), color=color
        )
        axes[0].bar_label(bars, fmt="%.1f", fontsize=7)
    axes[0].set_xticks(range(3), ["below 4", "4 to 6", "above 6"])
    axes[0].set(title="aesthetic score", ylabel="% of clips")
    if len(rows) == len(PAPER_AESTHETIC):
        axes[0].set_title("aesthetic score (no clip has one here)")
    axes[0].legend(fontsize=8)
    _pairs(axes[1], SIDE_NAMES, everything.sides, kept.sides)
    axes[1].set_title("shorter side, in pixels")
    _legend(axes[1])
    figure.savefig(png)


def draw_funnel(funnel: Funnel, png: Path) -> None:
    """Draw how many clips each rule leaves, and what it alone would drop, into a file."""
    from matplotlib.figure import Figure

    rows = [("all clips", funnel.all, None)] + [(step.rule, step.left, step) for step in funnel.steps]
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), [left.clips for _, left, _ in rows], color=INK, height=0.7)
    axes.set_yticks(range(len(rows)), [label_text(name) for name, _, _ in rows])
    axes.invert_yaxis()
    top = max(1, funnel.all.clips)
    for i, (_, left, step) in enumerate(rows):
        told = f"{left.clips} clips, {left.hours:.2f} h"
        if step is not None:
            told += f"; alone drops {step.alone.clips}"
            told += f", {step.no_value} without a value" if step.no_value and not step.asks_for_none else ""
        axes.text(left.clips + top * 0.01, i, label_text(told), va="center", fontsize=8)
    axes.set_xlim(0, top * 1.6)
    axes.set_xlabel("clips left after this rule and those above it")
    figure.savefig(png)


def draw_scores(table: "pa.Table", rules: Sequence[Rule], png: Path) -> None:
    """Draw the values of all clips in each column that a rule bounds, with its bounds, into a file."""
    bounded = [rule for rule in rules if rule.min is not None or rule.max is not None]
    figure, axes = _figure(max(1, -(-len(bounded) // ACROSS)), ACROSS)
    for place in axes:
        place.set_axis_off()
    for place, rule in zip(axes, bounded, strict=False):
        place.set_axis_on()
        values = np.asarray(table[rule.column].drop_null().to_numpy(), np.float64)
        limits = [limit for limit in (rule.min, rule.max) if limit is not None]
        if len(values):
            # A few far values would press all others into one bar; the bounds are always seen.
            low, high = np.percentile(values, [0.5, 99.5])
            low, high = min(low, *limits), max(high, *limits)
            margin = (high - low or 1.0) * 0.02
            inside = np.clip(values, low, high)
            place.hist(inside, bins=np.linspace(low - margin, high + margin, 41), color=INK)
        for limit in limits:
            place.axvline(limit, color=LIMIT)
        place.set(title=label_text(rule.name), ylabel="clips")
    figure.savefig(png)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    """Return a figure and its plots, in one row after the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4 * rows), dpi=100, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _pairs(axes: "Axes", labels: Sequence[str], everything: Sequence[int], kept: Sequence[int]) -> None:
    """Draw two horizontal bars for each label: all clips, and those that are kept."""
    places = np.arange(len(labels))
    axes.barh(places - 0.2, everything, 0.4, color=PALE, label="all clips")
    axes.barh(places + 0.2, kept, 0.4, color=INK, label="kept")
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlabel("clips")


def _steps(axes: "Axes", edges: np.ndarray, width: float, everything: Sequence[int], kept: Sequence[int]) -> None:
    """Draw two histograms over one another: all clips, and those that are kept."""
    axes.bar(edges, everything, width, align="edge", color=PALE, label="all clips")
    axes.bar(edges, kept, width, align="edge", color=INK, label="kept")


def _legend(axes: "Axes") -> None:
    """Tell the two colours apart."""
    axes.legend(fontsize=8)


def figure_files(folder: Path) -> Mapping[str, Path]:
    """Return where each figure lies in the folder of a report, by what it shows."""
    return {
        "Categories, durations and captions (the paper's figure 7)": folder / "fig7.png",
        "Aesthetic scores and resolutions (the paper's figure 8)": folder / "fig8.png",
        "What each rule leaves": folder / "funnel.png",
        "Values of all clips, and the rules' bounds": folder / "scores.png",
    }
