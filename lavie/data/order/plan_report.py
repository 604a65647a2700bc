"""Show the plan of a run as tables of text, and as a plot."""

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from ...console import make_console
from ...labels import label_text
from .plan import DataPlan, Exposure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATASET_COLOURS = ("#1f3b73", "#e08a1e", "#2a9d8f", "#c1121f", "#7b4fa3", "#7f8c3b", "#4f9bd9", "#8d5524")
BUCKET_COLOURS = ("#30123b", "#4686fb", "#1ae4b6", "#a2fc3c", "#faba39", "#e4460a", "#7a0403")
"""Other colours than the datasets', so that no curve of a bucket is taken for one of a dataset."""
LEGEND = """first and last: share at the first and the last step; epochs: how often samples come; size: of one epoch;
buckets: frames x height x width; enlarged: samples smaller than that; cut away: mean share of a sample's picture"""
"""Explains the columns, below the tables."""
MANY_EPOCHS = 1000
"""Repeats of a dataset beyond which a plan is questioned: fine-tuning on a few dozen clips takes some hundred."""
FEW_CLIPS = 10
"""Videos below which a plan is questioned: a network learns them by heart and nothing else."""
WIDTH = 110
"""Characters in a line of the tables."""


def plan_text(plan: DataPlan) -> str:
    """Return the plan as text: the tables of datasets and buckets, then a line for each total and each notice."""
    steps, clips = plan.steps[-1], plan.global_batch
    shards = frozenset().union(*(exposure.shards for exposure in plan.exposures))
    lines = [
        f"steps: {steps:,}; a step: {clips:,} clips and {clips * plan.num_images:,} images",
        f"read per step: {_size(plan.step_bytes)}, by all ranks together; in the run: {_size(plan.step_bytes * steps)}",
        f"shards: every node reads from all {len(shards)}, since the order is one for all ranks",
        f"video shown: {plan.hours:,.2f} h",
        *(f"left out: {sentence}" for sentence in plan.left_out or ["nothing"]),
        *notices(plan),
    ]
    return "\n".join([_render(_dataset_table(plan), _bucket_table(plan)), LEGEND, "", *lines])


def notices(plan: DataPlan) -> list[str]:
    """Return a sentence for everything in a possible plan that its owner may not want."""
    found = [f"no image suits frames of {shape}: all images are cut to fit them" for shape in plan.unsuited_shapes]
    for size in plan.bucket_steps:
        exposure = next((exposure for exposure in plan.by_bucket if exposure.bucket == size.name), None)
        if exposure is None:
            if not any(size.taken):
                found.append(f"bucket {size.name} is never taken: no video belongs there")
        elif not size.taken[-1]:
            found.append(
                f"bucket {size.name} is never taken in so few steps: its {exposure.samples:,} videos are not shown"
            )
        elif exposure.samples < plan.global_batch and len(plan.bucket_steps) > 1:
            found.append(
                f"bucket {size.name} holds {exposure.samples:,} videos, fewer than the clips of a step: each of its "
                f"{size.taken[-1]:,} steps shows some twice"
            )
    for exposure in plan.by_dataset:
        name, times = exposure.name or "data.train", exposure.epochs[-1]
        if times > MANY_EPOCHS:
            found.append(
                f"{name}: each of its {exposure.samples:,} {exposure.kind} comes {times:,.0f} times, which trains the "
                f"network to repeat them: max_train_steps={_steps_of(plan, MANY_EPOCHS / times):,} would be "
                f"{MANY_EPOCHS} epochs; lower it, or add data"
            )
    videos = sum(exposure.samples for exposure in plan.by_bucket if exposure.kind == "videos")
    if 0 < videos < FEW_CLIPS:
        found.append(f"all {plan.steps[-1]:,} steps show {videos} videos: add clips to data.train")
    if 0 < videos < plan.global_batch and len(plan.bucket_steps) == 1:
        found.append(
            f"a step takes {plan.global_batch:,} clips, more than the {videos:,} videos there are: lower "
            "train_batch_size or gradient_accumulation_steps"
        )
    return found


def _steps_of(plan: DataPlan, share: float) -> int:
    """Return a share of a plan's steps, at least 1."""
    return max(1, round(plan.steps[-1] * share))


def draw_plan(plan: DataPlan, png: str | Path) -> None:
    """Plot the datasets' shares and epochs over the steps; with several buckets, theirs too, and what each holds.

    There is a row of two plots for each kind of samples, and two more rows for several buckets.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(exposure.kind for exposure in plan.exposures))
    several = len(plan.bucket_steps) > 1
    rows = len(kinds) + 2 * several
    figure = Figure(figsize=(11, 1 + 3 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)

    # A dataset has one colour in all rows, by its place among all names.
    names = list(dict.fromkeys(exposure.name for exposure in plan.exposures))
    for (shares_axes, epochs_axes), kind in zip(axes, kinds, strict=False):
        exposures = [exposure for exposure in plan.by_dataset if exposure.kind == kind]
        shares = [exposure.shares for exposure in exposures]
        labels = [exposure.name or "data.train" for exposure in exposures]
        colours = [DATASET_COLOURS[names.index(exposure.name) % len(DATASET_COLOURS)] for exposure in exposures]
        _draw_shares(shares_axes, plan.steps, shares, labels, colours, f"share of the {kind}")
        shares_axes.set_title(label_text(f"{kind}, by dataset"))
        _draw_epochs(epochs_axes, plan.steps, exposures, labels, colours)
        epochs_axes.set_title(label_text(f"how often each of the {kind} has come"))
    if several:
        _draw_bucket_steps(axes[-2], plan)
        _draw_bucket_samples(axes[-1], plan)

    clips = plan.global_batch * plan.steps[-1]
    figure.suptitle(label_text(f"{plan.steps[-1]:,} steps, {clips:,} clips, {plan.hours:,.1f} h of video"))
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png")


def _draw_shares(
    axes: "Axes", steps: list[int], shares: list[list[float]], labels: list[str], colours: list[str], title: str
) -> None:
    """Draw shares of datasets or buckets, which sum to 1 at every step, as areas on top of each other.

    Args:
        axes: where to draw.
        steps: the steps of the plan, the horizontal axis.
        shares: for each dataset or bucket, its share at each step.
        labels: name of each in the legend.
        colours: colour of each.
        title: label of the vertical axis.
    """
    from matplotlib.ticker import PercentFormatter

    axes.stackplot(steps, shares, labels=[label_text(label) for label in labels], colors=colours, alpha=0.85)
    axes.set(ylabel=label_text(title), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower left", framealpha=0.9, reverse=True)
    _label_steps(axes, steps)


def _draw_epochs(
    axes: "Axes", steps: list[int], exposures: list[Exposure], labels: list[str], colours: list[str]
) -> None:
    """Draw a curve for each exposure: how often each of its samples has come, in the mean, up to each step.

    Args:
        axes: where to draw.
        steps: the steps of the plan, the horizontal axis.
        exposures: one for each curve, of a dataset or a bucket; its `epochs` has a value for each of `steps`.
        labels: name of each curve in the legend, where its last value is added.
        colours: colour of each curve.
    """
    for exposure, colour, label in zip(exposures, colours, labels, strict=True):
        last = exposure.epochs[-1]
        label += f": {last:.3g} at the end" if last < 100 else f": {last:,.0f} at the end"
        axes.plot(steps, exposure.epochs, color=colour, label=label_text(label), linewidth=2)
    axes.set(ylabel="epochs", ylim=(0, None))
    axes.grid(True, color="0.9")
    axes.legend(loc="upper left", framealpha=0.9)
    _label_steps(axes, steps)


def _label_steps(axes: "Axes", steps: list[int]) -> None:
    """Let the horizontal axis run over all steps, with ticks at whole ones."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="step", xlim=(0, steps[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_bucket_steps(axes: Any, plan: DataPlan) -> None:
    """Draw the buckets' shares of the steps, and the epochs of their videos, in a row of two axes."""
    shares_axes, epochs_axes = axes
    colours = {size.name: BUCKET_COLOURS[i % len(BUCKET_COLOURS)] for i, size in enumerate(plan.bucket_steps)}
    shares = [size.shares for size in plan.bucket_steps]
    _draw_shares(shares_axes, plan.steps, shares, list(colours), list(colours.values()), "share of the steps")
    shares_axes.set_title("steps, by bucket (frames x height x width)")
    videos = [exposure for exposure in plan.by_bucket if exposure.kind == "videos"]
    names = [exposure.bucket for exposure in videos]
    _draw_epochs(epochs_axes, plan.steps, videos, names, [colours[name] for name in names])
    epochs_axes.set_title("how often each of a bucket's videos has come")


def _draw_bucket_samples(axes: Any, plan: DataPlan) -> None:
    """Draw how many samples each bucket has, and what it cuts away of them, as bars in a row of two axes."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    samples_axes, cut_axes = axes
    exposures = list(reversed(plan.by_bucket))  # bars are drawn from below
    labels = [label_text(f"{exposure.kind} {exposure.bucket}") for exposure in exposures]
    large = [exposure.samples - exposure.enlarged for exposure in exposures]
    enlarged = [exposure.enlarged for exposure in exposures]
    most_samples = max(exposure.samples for exposure in exposures)
    samples_axes.barh(labels, large, color="#1f3b73", label="large enough")
    samples_axes.barh(labels, enlarged, left=large, color="#e08a1e", label="enlarged to fill the frames")
    samples_axes.set(xlabel="samples", title="samples of each bucket", xlim=(0, 1.05 * most_samples))
    samples_axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    samples_axes.legend(loc="best", framealpha=0.9)

    cuts = [exposure.cut for exposure in exposures]
    cut_axes.barh(labels, cuts, color="#2a9d8f")
    cut_axes.set(
        xlabel="mean share of a picture", title="cut away to fit the bucket", xlim=(0, max(0.1, 1.1 * max(cuts)))
    )
    cut_axes.xaxis.set_major_formatter(PercentFormatter(1))


def _dataset_table(plan: DataPlan) -> Table:
    """Return the table of the datasets, a line for each kind and dataset."""
    rows = []
    for exposure in plan.by_dataset:
        shards, size = f"{len(exposure.shards):,}", _size(exposure.sample_bytes * exposure.samples)
        rows.append((exposure.name or "data.train", exposure, shards, size))
    return _table("dataset", ("shards", "size"), rows)


def _bucket_table(plan: DataPlan) -> Table:
    """Return the table of the buckets, a line for each kind and bucket."""
    rows = [(e.bucket, e, f"{e.enlarged:,}", f"{e.cut:.1%}") for e in plan.by_bucket]
    return _table("bucket", ("enlarged", "cut away"), rows)


def _table(first: str, last: Sequence[str], rows: Iterable[tuple[str, Exposure, str, str]]) -> Table:
    """Return a table with the counts of exposures between its own first and last columns.

    Args:
        first: title of the first column.
        last: titles of the last two columns.
        rows: for each line the text of the first column, what it counts, and the texts of the last two columns.
    """
    table = Table(box=SIMPLE, pad_edge=False)
    for title in (first, "kind"):
        table.add_column(title)
    for title in ("samples", "first", "last", "taken", "epochs", *last):
        table.add_column(title, justify="right")
    for name, exposure, *more in rows:
        shares = f"{exposure.shares[0]:.1%}", f"{exposure.shares[-1]:.1%}"
        taken = f"{exposure.taken[-1]:,}", f"{exposure.epochs[-1]:.2f}"
        table.add_row(name, exposure.kind, f"{exposure.samples:,}", *shares, *taken, *more)
    return table


def _render(*tables: Table) -> str:
    """Return tables as lines of at most WIDTH characters, without spaces at their ends."""
    text = StringIO()
    make_console(file=text, width=WIDTH).print(*tables)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _size(count: float) -> str:
    """Return a number of bytes in the largest unit of which it has at least one, up to TiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
