"""Plots of a dataset's statistics, as the paper shows those of Vimeo25M in its figures 7 and 8."""

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...labels import label_text
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
    """Draw what is known into the file `png`, of up to six plots in rows of three.

    They are categories, durations and caption lengths (the paper's figure 7), aesthetic scores and resolutions (figure
    8), and the number of samples in each shard. A plot without values is left out.
    """
    from matplotlib.figure import Figure

    sizes = Counter({f"{w} x {h}": n for (w, h), n in report.sizes.items()})
    plots: list[tuple[Any, Callable[[Axes], None]]] = [
        (report.categories, lambda axes: _bars(axes, report.categories, "categories", "samples")),
        (
            report.durations,
            lambda axes: _histogram(axes, report.durations, "duration of the videos", "seconds", "videos"),
        ),
        (report.words, lambda axes: _histogram(axes, report.words, "length of the captions", "words")),
        (report.aesthetic, lambda axes: _histogram(axes, report.aesthetic, "aesthetic score", "score")),
        (sizes, lambda axes: _bars(axes, sizes, "resolution", "samples")),
        (report.shards, lambda axes: _bars(axes, _by_shard(report), "samples of the shards", "samples", ordered=True)),
    ]
    known = [draw for values, draw in plots if values]
    columns = max(1, min(3, len(known)))
    rows = max(1, -(-len(known) // columns))
    figure = Figure(figsize=(5 * columns, 4 * rows), dpi=100, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for place in places:
        place.set_axis_off()
    for place, draw in zip(figure.axes, known, strict=False):
        place.set_axis_on()
        draw(place)
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

    axes.set_title(label_text(title))
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
    axes.set(xlabel=label_text(unit), ylabel=label_text(counted))


def _bars(axes: "Axes", counts: Counter[str], title: str, unit: str, *, ordered: bool = False) -> None:
    """Draw one horizontal bar per label: the largest first, or, if `ordered`, in the order of `counts`."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(label_text(title))

    # The labels beyond MOST_BARS are added up in a last bar.
    rows = list(counts.items())[:MOST_BARS] if ordered else counts.most_common(MOST_BARS)
    rest = sum(counts.values()) - sum(count for _, count in rows)
    if rest:
        rows.append((f"{len(counts) - MOST_BARS} more", rest))

    labels = [label_text(label) for label, _ in rows]
    axes.barh(range(len(rows)), [count for _, count in rows], color=INK)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), FEWEST_PLACES) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label_text(unit))
