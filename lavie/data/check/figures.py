"""Plots of a dataset's statistics, as the paper shows those of Vimeo25M in its figures 7 and 8."""

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...labels import readable
from .report import CheckReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f3b73"
"""Colour of all bars."""
MOST_BARS = 12
"""Number of categories, resolutions or shards with a bar of their own; the rest shares one bar."""
FEWEST_PLACES = 6
"""Least number of places for bars on an axis, so that a single bar does not fill its plot."""
WIDE = 8.0
"""A histogram's axis is logarithmic if its largest value is more than this many times the median."""


def draw_statistics(report: CheckReport, png: str | Path) -> None:
    """Draw six plots into the file `png`; a plot whose values are not known says so.

    Above: categories, durations and caption lengths (the paper's figure 7). Below: aesthetic scores and resolutions
    (figure 8), and the number of samples in each shard.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), dpi=100, layout="constrained")
    (categories, durations, words), (scores, sizes, balance) = figure.subplots(2, 3)
    _bars(categories, report.categories, "categories", "samples")
    _histogram(durations, report.durations, "duration of the videos", "seconds", "videos")
    _histogram(words, report.words, "length of the captions", "words")
    _histogram(scores, report.aesthetic, "aesthetic score", "score")
    _bars(sizes, Counter({f"{w} x {h}": n for (w, h), n in report.sizes.items()}), "resolution", "samples")
    _bars(balance, _by_shard(report), "samples of the shards", "samples", ordered=True)
    figure.savefig(png)


def _by_shard(report: CheckReport) -> Counter[str]:
    """Return the number of samples by shard; shards go by their file names unless two of these are equal."""
    paths = [str(shard["shard"]) for shard in report.shards]
    file_names = [Path(path).name for path in paths]
    labels = file_names if len(set(file_names)) == len(file_names) else paths
    return Counter({label: s["videos"] + s["images"] for label, s in zip(labels, report.shards, strict=True)})


def _histogram(axes: "Axes", values: list[float] | list[int], title: str, unit: str, counted: str = "samples") -> None:
    """Draw how many of `counted` have which value; `unit` labels the axis of the values."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_title(title)
    if not values:
        _say_not_known(axes)
        return

    # A narrow range of whole numbers gets one bar per number, anything else thirty bars.
    whole = all(isinstance(v, int) for v in values)
    span = int(max(values)) - int(min(values)) + 1
    edges: Any = [min(values) - 0.5 + i for i in range(span + 1)] if whole and span <= 60 else 30

    # Few very large values would press all others into one bar of a linear axis.
    if not whole and max(values) > WIDE * statistics.median(values) and min(values) > 0:
        edges = np.geomspace(min(values), max(values), 31)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())

    axes.hist(values, bins=edges, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=unit, ylabel=counted)


def _bars(axes: "Axes", counts: Counter[str], title: str, unit: str, *, ordered: bool = False) -> None:
    """Draw one horizontal bar per label: the largest first, or, if `ordered`, in the order of `counts`."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    if not counts:
        _say_not_known(axes)
        return

    # The labels beyond MOST_BARS are added up in a last bar.
    rows = list(counts.items())[:MOST_BARS] if ordered else counts.most_common(MOST_BARS)
    rest = sum(counts.values()) - sum(count for _, count in rows)
    if rest:
        rows.append((f"{len(counts) - MOST_BARS} more", rest))

    # A category may hold what matplotlib takes for mathematics, or letters of any language.
    labels = [readable(label).replace("$", "\\$") for label, _ in rows]
    axes.barh(range(len(rows)), [count for _, count in rows], color=INK)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), FEWEST_PLACES) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(unit)


def _say_not_known(axes: "Axes") -> None:
    """Write "not known" in place of a plot."""
    axes.text(0.5, 0.5, "not known", ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_axis_off()
