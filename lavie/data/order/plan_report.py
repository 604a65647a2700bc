"""The plan of a run as text, and as a picture."""

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .plan import Part, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f3b73", "#e08a1e", "#2a9d8f", "#c1121f", "#7b4fa3", "#7f8c3b", "#4f9bd9", "#8d5524")
SIZES = ("#30123b", "#4686fb", "#1ae4b6", "#a2fc3c", "#faba39", "#e4460a", "#7a0403")
"""Colours of the buckets: others than the datasets'."""
COLUMNS = """first and last: share at the first and the last step; epochs: how often samples come; size: of one epoch;
buckets: frames x height x width; enlarged: samples smaller than that; cut away: mean share of a sample's picture"""
WIDTH = 110
"""Columns of the tables."""


def report(plan: Plan) -> str:
    """The datasets and the buckets as tables, and some lines."""
    steps, clips = plan.steps[-1], plan.global_batch
    lines = [
        f"steps: {steps:,}; a step: {clips:,} clips and {clips * plan.num_images:,} images",
        f"read per step: {_size(plan.step_bytes)}, by all ranks together; in the run: {_size(plan.step_bytes * steps)}",
        f"shards: every node reads from all {len(frozenset().union(*(part.shards for part in plan.parts)))}, since the "
        "order is one for all ranks",
        f"video shown: {plan.hours:,.2f} h",
        *(f"left out: {note}" for note in plan.left_out or ["nothing"]),
        *notices(plan),
    ]
    return "\n".join([_render(_datasets(plan), _sizes(plan)), COLUMNS, "", *lines])


def notices(plan: Plan) -> list[str]:
    """What of a possible plan may not be wanted."""
    found = [f"no image suits frames of {shape}: all images are cut to fit them" for shape in plan.all_images]
    for size in plan.sizes:
        part = next((part for part in plan.buckets if part.bucket == size.name), None)
        if part is None:
            if not any(size.taken):
                found.append(f"bucket {size.name} is never taken: no video belongs there")
        elif not size.taken[-1]:
            found.append(
                f"bucket {size.name} is never taken in so few steps: its {part.samples:,} videos are not shown"
            )
        elif part.samples < plan.global_batch:
            found.append(
                f"bucket {size.name} holds {part.samples:,} videos, fewer than the clips of a step: each of its "
                f"{size.taken[-1]:,} steps shows some twice"
            )
    return found


def draw_plan(plan: Plan, png: str | Path) -> None:
    """Plot shares and epochs of the datasets over the steps; of several buckets too, and what each holds."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(part.kind for part in plan.parts))
    several = len(plan.sizes) > 1
    rows = len(kinds) + 2 * several
    figure = Figure(figsize=(11, 1 + 3 * rows), dpi=120, layout="constrained")
    names = list(dict.fromkeys(part.name for part in plan.parts))
    axes = figure.subplots(rows, 2, squeeze=False)
    for (left, right), kind in zip(axes, kinds, strict=False):
        parts = [part for part in plan.datasets if part.kind == kind]
        colours = [COLOURS[names.index(part.name) % len(COLOURS)] for part in parts]
        labels = [part.name or "data.train" for part in parts]
        _shares(left, plan.steps, [part.shares for part in parts], labels, colours, f"share of the {kind}")
        left.set_title(f"{kind}, by dataset")
        _epochs(right, plan.steps, parts, labels, colours)
        right.set_title(f"how often each of the {kind} has come")
    if several:
        _draw_buckets(axes[-2:], plan)
    clips = plan.global_batch * plan.steps[-1]
    figure.suptitle(f"{plan.steps[-1]:,} steps, {clips:,} clips, {plan.hours:,.1f} h of video")
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png")


def _shares(
    axes: "Axes", steps: list[int], shares: list[list[float]], labels: list[str], colours: list[str], title: str
) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.stackplot(steps, shares, labels=labels, colors=colours, alpha=0.85)
    axes.set(ylabel=title, ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower left", framealpha=0.9, reverse=True)
    _over_steps(axes, steps)


def _epochs(axes: "Axes", steps: list[int], parts: list[Part], labels: list[str], colours: list[str]) -> None:
    for part, colour, label in zip(parts, colours, labels, strict=True):
        last = part.epochs[-1]
        label += f": {last:.3g} at the end" if last < 100 else f": {last:,.0f} at the end"
        axes.plot(steps, part.epochs, color=colour, label=label, linewidth=2)
    axes.set(ylabel="epochs", ylim=(0, None))
    axes.grid(True, color="0.9")
    axes.legend(loc="upper left", framealpha=0.9)
    _over_steps(axes, steps)


def _over_steps(axes: "Axes", steps: list[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="step", xlim=(0, steps[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_buckets(axes: Any, plan: Plan) -> None:
    """Over two rows of axes: steps and epochs of the buckets, what each holds, and what it cuts away."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    (shares, epochs), (samples, cuts) = axes
    colours = {size.name: SIZES[number % len(SIZES)] for number, size in enumerate(plan.sizes)}
    _shares(
        shares, plan.steps, [s.shares for s in plan.sizes], list(colours), list(colours.values()), "share of the steps"
    )
    shares.set_title("steps, by bucket (frames x height x width)")
    videos = [part for part in plan.buckets if part.kind == "videos"]
    names = [part.bucket for part in videos]
    _epochs(epochs, plan.steps, videos, names, [colours[name] for name in names])
    epochs.set_title("how often each of a bucket's videos has come")
    parts = list(reversed(plan.buckets))  # bars are drawn from below
    rows = [f"{part.kind} {part.bucket}" for part in parts]
    samples.barh(rows, [p.samples - p.enlarged for p in parts], color="#1f3b73", label="large enough")
    left = [p.samples - p.enlarged for p in parts]
    samples.barh(rows, [p.enlarged for p in parts], left=left, color="#e08a1e", label="enlarged to fill the frames")
    samples.set(xlabel="samples", title="samples of each bucket", xlim=(0, 1.05 * max(p.samples for p in parts)))
    samples.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    samples.legend(loc="best", framealpha=0.9)
    cuts.barh(rows, [p.cut for p in parts], color="#2a9d8f")
    cuts.set(
        xlabel="mean share of a picture",
        title="cut away to fit the bucket",
        xlim=(0, max(0.1, *(1.1 * p.cut for p in parts))),
    )
    cuts.xaxis.set_major_formatter(PercentFormatter(1))


def _datasets(plan: Plan) -> Table:
    rows = (
        (part.name or "data.train", part.kind, part, f"{len(part.shards):,}", _size(part.sample_bytes * part.samples))
        for part in plan.datasets
    )
    return _table(("dataset", "kind"), ("shards", "size"), rows)


def _sizes(plan: Plan) -> Table:
    rows = ((part.bucket, part.kind, part, f"{part.enlarged:,}", f"{part.cut:.1%}") for part in plan.buckets)
    return _table(("bucket", "kind"), ("enlarged", "cut away"), rows)


def _table(names: Sequence[str], more: Sequence[str], rows: Iterable[tuple[str, str, Part, str, str]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("samples", "first", "last", "taken", "epochs", *more):
        table.add_column(name, justify="right")
    for name, kind, part, *rest in rows:
        numbers = (f"{part.samples:,}", f"{part.shares[0]:.1%}", f"{part.shares[-1]:.1%}", f"{part.taken[-1]:,}")
        table.add_row(escape(name), kind, *numbers, f"{part.epochs[-1]:.2f}", *rest)
    return table


def _render(*tables: Table) -> str:
    text = StringIO()
    Console(file=text, width=WIDTH).print(*tables)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
