"""What a run will see of its datasets, computed before it starts from the same functions that it reads by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config_data import DataConfig
from ..errors import ConfigError
from .index import Index
from .pools import Order, Pool, image_order, load_pools, video_order

POINTS = 200
"""Steps at which the curves are computed."""
COLOURS = ("#1f3b73", "#e08a1e", "#2a9d8f", "#c1121f", "#7b4fa3", "#7f8c3b", "#4f9bd9", "#8d5524")


@dataclass(frozen=True)
class Part:
    """What a run takes of the videos, or of the images, of one dataset."""

    name: str
    kind: str
    """videos or images."""
    samples: int
    shards: int
    taken: list[int]
    """How many samples the run has taken before each of `Plan.steps`."""
    shares: list[float]
    """Its share of the clips, or of the images, at each of `Plan.steps`."""
    sample_bytes: float
    """Mean size of a media member."""
    seconds: float
    """Shown by one clip; 0 for images, moving ones too."""

    @property
    def epochs(self) -> list[float]:
        """How often the run has gone through the samples before each of `Plan.steps`."""
        return [taken / self.samples for taken in self.taken]


@dataclass(frozen=True)
class Plan:
    """What a run will see. The share data.moving_images of its clips comes from the images instead of the videos."""

    steps: list[int]
    """From 0 to the number of steps of the run."""
    global_batch: int
    num_images: int
    parts: list[Part]

    @property
    def step_bytes(self) -> float:
        """Mean bytes of media that all ranks together read in a step."""
        return sum(part.taken[-1] * part.sample_bytes for part in self.parts) / self.steps[-1]

    @property
    def hours(self) -> float:
        """Hours of video that the run is shown."""
        return sum(part.taken[-1] * part.seconds for part in self.parts) / 3600


def make_plan(data: DataConfig, *, seed: int, steps: int, global_batch: int, max_epochs: float | None = None) -> Plan:
    """The plan of a run of `steps` steps with `global_batch` clips each.

    Raises ConfigError if a dataset is never taken, or a kind of it more than `max_epochs` times, and DataError or
    ConfigError as `load_pools`.
    """
    pools = load_pools(data, data.train)
    points = sorted({round(steps * i / POINTS) for i in range(POINTS + 1)})
    parts = []
    if data.moving_images < 1:
        order = video_order(pools, seed, global_batch)
        parts += _parts("videos", order, pools, points, global_batch, 1 - data.moving_images, data)
    if data.num_images:
        per_step = global_batch * data.num_images
        parts += _parts("images", image_order(pools, seed, per_step), pools, points, per_step, 1.0, data)
    if data.moving_images:
        order = image_order(pools, seed, global_batch, "moving images")
        parts += _parts("moving images", order, pools, points, global_batch, data.moving_images, data)
    plan = Plan(points, global_batch, data.num_images, parts)
    for pool in pools:
        if not any(part.taken[-1] for part in parts if part.name == pool.name):
            raise ConfigError(
                f"dataset {pool.name} is taken at none of the {steps} steps: its weight is 0 throughout. Give it a "
                "weight, or leave it out of data.train"
            )
    for part in parts:
        if max_epochs is not None and part.epochs[-1] > max_epochs:
            raise ConfigError(
                f"{part.name or 'data.train'}: {part.taken[-1]} {part.kind} are taken of {part.samples}: "
                f"{part.epochs[-1]:.2f} epochs, above --max-epochs {max_epochs:g}. Lower its weight or "
                "max_train_steps, or add data"
            )
    return plan


def check_global_batch(global_batch: int, train_batch_size: int, world_size: int) -> int:
    """The gradient_accumulation_steps that make `global_batch`. Raises ConfigError if it does not divide."""
    per_pass = train_batch_size * world_size
    if global_batch % per_pass:
        raise ConfigError(
            f"a global batch of {global_batch} clips does not divide among {world_size} ranks with train_batch_size "
            f"{train_batch_size}: wanted a multiple of {per_pass}. Change --world-size or train_batch_size"
        )
    return global_batch // per_pass


def draw_plan(plan: Plan, png: str | Path) -> None:
    """Plot the shares of the datasets, and their epochs, over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    kinds = list(dict.fromkeys(part.kind for part in plan.parts))
    figure = Figure(figsize=(11, 1 + 3 * len(kinds)), dpi=120, layout="constrained")
    names = list(dict.fromkeys(part.name for part in plan.parts))
    for (left, right), kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        parts = [part for part in plan.parts if part.kind == kind]
        colours = [COLOURS[names.index(part.name) % len(COLOURS)] for part in parts]
        labels = [part.name or "data.train" for part in parts]
        left.stackplot(plan.steps, [part.shares for part in parts], labels=labels, colors=colours, alpha=0.85)
        left.set(ylabel=f"share of the {kind}", ylim=(0, 1))
        left.yaxis.set_major_formatter(PercentFormatter(1))
        for part, colour, label in zip(parts, colours, labels, strict=True):
            right.plot(plan.steps, part.epochs, color=colour, label=f"{label}: {part.epochs[-1]:.3g}", linewidth=2)
        right.set(ylabel=f"epochs of the {kind}", ylim=(0, None))
        right.grid(True, color="0.9")
        right.legend(loc="upper left", framealpha=0.9)
        left.legend(loc="lower left", framealpha=0.9)
        for axes in (left, right):
            axes.set(xlabel="step", xlim=(0, plan.steps[-1]))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    clips = plan.global_batch * plan.steps[-1]
    figure.suptitle(f"{plan.steps[-1]:,} steps, {clips:,} clips, {plan.hours:,.1f} h of video")
    figure.savefig(png)


def _parts(
    kind: str,
    order: Order,
    pools: Sequence[Pool],
    points: list[int],
    per_step: int,
    share: float,
    data: DataConfig,
) -> list[Part]:
    assert order.mixture is not None
    counts = [order.mixture.counts(step * per_step) for step in points]
    shares = [order.mixture.shares(step) for step in points]
    return [
        Part(
            name=name,
            kind=kind,
            samples=len(samples),
            shards=len(np.unique(samples.column("shard"))),
            taken=[round(count[number] * share) for count in counts],
            shares=[each[number] for each in shares],
            sample_bytes=float(samples.column("size").mean(dtype=np.float64)),
            seconds=_seconds(samples, data, kind),
        )
        for number, (name, samples) in enumerate(zip(order.names, order.samples, strict=True))
    ]


def _seconds(samples: Index, data: DataConfig, kind: str) -> float:
    """Mean time that a clip shows; of moving images, nothing: they are no video."""
    if kind != "videos":
        return 0.0
    if data.fps:
        return data.num_frames / data.fps
    return data.num_frames * (data.frame_stride or 1) * float((1 / samples.column("fps")).mean())
