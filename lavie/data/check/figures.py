"""Statistics of a dataset as the paper shows those of Vimeo25M: its Figs. 7 and 8."""

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .check import CheckReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f3b73"
SHOWN = 12
"""Categories and resolutions that have a bar of their own."""
FEWEST = 6
"""Places for bars: a single one does not fill its plot."""
WIDE = 8.0
"""An axis whose largest value is so many times the median is logarithmic."""


def draw_statistics(report: CheckReport, png: str | Path) -> None:
    """Categories, durations and caption lengths (Fig. 7), aesthetic scores and resolutions (Fig. 8); what is known."""
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
    names = [str(s["shard"]) for s in report.shards]
    short = [Path(n).name for n in names]
    labels = short if len(set(short)) == len(short) else names
    return Counter({n: s["videos"] + s["images"] for n, s in zip(labels, report.shards, strict=True)})


def _histogram(axes: "Axes", values: list[float] | list[int], title: str, unit: str, counted: str = "samples") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_title(title)
    if not values:
        _nothing(axes)
        return
    whole = all(isinstance(v, int) for v in values)
    span = int(max(values)) - int(min(values)) + 1
    edges: Any = [min(values) - 0.5 + i for i in range(span + 1)] if whole and span <= 60 else 30
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
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    if not counts:
        _nothing(axes)
        return
    rows = list(counts.items())[:SHOWN] if ordered else counts.most_common(SHOWN)
    rest = sum(counts.values()) - sum(n for _, n in rows)
    if rest:
        rows.append((f"{len(counts) - SHOWN} more", rest))
    # A category may hold what matplotlib takes for mathematics.
    labels = [label.replace("$", "\\$") for label, _ in rows]
    axes.barh(range(len(rows)), [n for _, n in rows], color=INK)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), FEWEST) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(unit)


def _nothing(axes: "Axes") -> None:
    axes.text(0.5, 0.5, "not known", ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_axis_off()
