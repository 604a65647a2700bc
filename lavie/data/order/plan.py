"""What a run will see of its datasets, computed before it starts from the same functions that it reads by."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...config.data import DataConfig
from ...errors import ConfigError
from ..shards.index import Index
from .buckets import Bucket, Buckets, load_buckets, picture, pictures
from .datasets import WeightedDataset, image_order, video_order
from .mixture import weight_at

POINTS = 200
"""Steps at which the curves are computed."""


@dataclass(frozen=True)
class Part:
    """What a run takes of the videos, or of the images, of one dataset, in one bucket or in all."""

    name: str
    kind: str
    """videos, images or moving images."""
    bucket: str
    """As "16x320x512", or "320x512" for images, which the buckets of that height and width share."""
    samples: int
    shards: frozenset[str]
    taken: list[int]
    """How many samples the run has taken before each of `Plan.steps`."""
    shares: list[float]
    """Its share of the clips, or of the images, at each of `Plan.steps`."""
    sample_bytes: float
    """Mean size of a media member."""
    seconds: float
    """Shown by one clip; 0 for images, moving ones too."""
    enlarged: int
    """How many samples are smaller than the frames that they fill."""
    cut: float
    """Mean share of a sample's picture that is cut away."""

    @property
    def epochs(self) -> list[float]:
        """How often the run has gone through the samples before each of `Plan.steps`."""
        return [taken / max(1, self.samples) for taken in self.taken]


@dataclass(frozen=True)
class Size:
    """One bucket's steps."""

    name: str
    taken: list[int]
    """How many steps before each of `Plan.steps` are its."""
    shares: list[float]
    """Its share of the steps at each of `Plan.steps`."""


@dataclass(frozen=True)
class Plan:
    """What a run will see. The share data.moving_images of its clips comes from the images instead of the videos."""

    steps: list[int]
    """From 0 to the number of steps of the run."""
    global_batch: int
    num_images: int
    parts: list[Part]
    """One for each bucket, kind and dataset that has samples there."""
    sizes: list[Size]
    samples: dict[tuple[str, str], int]
    """By kind and dataset. An image may be in several parts."""
    left_out: list[str]
    """What of the datasets the configuration leaves out, and why."""
    all_images: list[str]
    """Heights and widths of its steps that no image suits, to which all are cut."""

    @property
    def step_bytes(self) -> float:
        """Mean bytes of media that all ranks together read in a step."""
        return sum(part.taken[-1] * part.sample_bytes for part in self.parts) / self.steps[-1]

    @property
    def hours(self) -> float:
        """Hours of video that the run is shown."""
        return sum(part.taken[-1] * part.seconds for part in self.parts) / 3600

    @property
    def datasets(self) -> list[Part]:
        """The parts of each dataset and kind, over all buckets, as one."""
        merged = _merged(self.parts, lambda part: (part.kind, part.name))
        return [replace(part, samples=self.samples[part.kind, part.name]) for part in merged]

    @property
    def buckets(self) -> list[Part]:
        """The parts of each bucket and kind, over all datasets, as one."""
        return _merged(self.parts, lambda part: (part.kind, part.bucket))


def make_plan(
    data: DataConfig,
    *,
    seed: int,
    steps: int,
    global_batch: int,
    max_epochs: float | None = None,
    buckets: Buckets | None = None,
) -> Plan:
    """The plan of a run of `steps` steps with `global_batch` clips each.

    buckets: what `load_buckets` has made of data.train with this seed, if it was called.
    Raises ConfigError if a dataset is never taken, or a kind of it more than `max_epochs` times, and DataError or
    ConfigError as `load_buckets`.
    """
    buckets = buckets or load_buckets(data, data.train, seed)
    points = sorted({round(steps * i / POINTS) for i in range(POINTS + 1)})
    moving = data.moving_images
    parts = []
    for kind, share, of_clip in (
        ("videos", 1 - moving, 1),
        ("images", 1, data.num_images),
        ("moving images", moving, 1),
    ):
        if share * of_clip == 0:
            continue
        for bucket in buckets.all if kind == "videos" else {bucket.shape: bucket for bucket in buckets.all}.values():
            parts += _parts(kind, bucket, seed, points, global_batch * of_clip, share)
    sizes = [
        Size(
            bucket.name,
            [buckets.steps.count(step, number) for step in points],
            [buckets.steps.shares(step)[number] for step in points],
        )
        for number, bucket in enumerate(buckets.all)
    ]
    samples = {
        (kind, pool.name): len(pool.index.videos if kind == "videos" else pool.index.images)
        for kind in ("videos", "images", "moving images")
        for pool in buckets.datasets
    }
    left_out = [note for pool in buckets.datasets for note in pool.left_out]
    bare = {
        bucket.shape: None
        for bucket, size in zip(buckets.all, sizes, strict=True)
        if bucket.takes_all_images and size.taken[-1] and (data.num_images or moving)
    }
    plan = Plan(points, global_batch, data.num_images, parts, sizes, samples, left_out, list(bare))
    for pool in buckets.datasets:
        if _idle(pool, data, steps):
            raise ConfigError(
                f"dataset {pool.name} is taken at none of the {steps} steps: its weight is 0 throughout. Give it a "
                "weight, raise max_train_steps, or leave it out of data.train"
            )
    for part in plan.datasets:
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


def _idle(pool: WeightedDataset, data: DataConfig, steps: int) -> bool:
    """Whether nothing that a run takes of a dataset has a weight at any of its steps."""
    used = [pool.weight] if pool.index.videos and data.moving_images < 1 else []
    used += [pool.image_weight] if pool.index.images and (data.num_images or data.moving_images) else []
    ends = {0, steps - 1, *(step for knots in used for step, _ in knots if step < steps)}
    return not any(weight_at(knots, step) for knots in used for step in ends)


def _parts(kind: str, bucket: Bucket, seed: int, points: list[int], per_step: int, share: float) -> list[Part]:
    """What a bucket takes of each dataset; `per_step` of the kind to a step of its, of which it is `share`."""
    step_count = bucket.step_count if kind == "videos" else bucket.image_step_count
    if kind == "videos":
        order = video_order(bucket.datasets, seed, per_step, step_count)
    else:
        order = image_order(bucket.datasets, seed, per_step, kind, step_count)
    if order.mixture is None:
        return []
    turns = [step_count.share(step) if step_count else 1.0 for step in points]
    counts = [order.mixture.counts(step * per_step) for step in points]
    shares = [order.mixture.shares(step) for step in points]
    parts = []
    for number, (name, samples) in enumerate(zip(order.names, order.samples, strict=True)):
        enlarged, cut = _fitting(samples, bucket.data)
        parts.append(
            Part(
                name=name,
                kind=kind,
                bucket=bucket.name if kind == "videos" else bucket.shape,
                samples=len(samples),
                shards=frozenset(np.array(samples.shards)[np.unique(samples.column("shard"))].tolist()),
                taken=[round(count[number] * share) for count in counts],
                shares=[turn * each[number] for turn, each in zip(turns, shares, strict=True)],
                sample_bytes=float(samples.column("size").mean(dtype=np.float64)),
                seconds=_seconds(samples, bucket.data, kind),
                enlarged=enlarged,
                cut=cut,
            )
        )
    return parts


def _fitting(samples: Index, data: DataConfig) -> tuple[int, float]:
    """How many samples are enlarged to fill the frames, and the mean share of their pictures that is cut away."""
    enlarged, total = 0, 0.0
    for _, widths, heights in pictures(samples):
        scale, cut = picture(widths, heights, data.height, data.width, data.crop)
        enlarged, total = enlarged + int((scale > 1).sum()), total + float(cut.sum())
    return enlarged, total / len(samples)


def _seconds(samples: Index, data: DataConfig, kind: str) -> float:
    """Mean time that a clip shows; of moving images, nothing: they are no video."""
    if kind != "videos":
        return 0.0
    if data.fps:
        return data.num_frames / data.fps
    return data.num_frames * (data.frame_stride or 1) * float((1 / samples.column("fps")).mean())


def _merged(parts: list[Part], key: Callable[[Part], tuple[str, str]]) -> list[Part]:
    """One part for each key: sums, and means over the samples."""
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)

    def only(values: set[str]) -> str:
        return values.pop() if len(values) == 1 else ""

    def mean(group: list[Part], value: Callable[[Part], float]) -> float:
        return sum(value(part) * part.samples for part in group) / sum(part.samples for part in group)

    return [
        Part(
            name=only({part.name for part in group}),
            kind=group[0].kind,
            bucket=only({part.bucket for part in group}),
            samples=sum(part.samples for part in group),
            shards=frozenset().union(*(part.shards for part in group)),
            taken=[sum(each) for each in zip(*(part.taken for part in group), strict=True)],
            shares=[sum(each) for each in zip(*(part.shares for part in group), strict=True)],
            sample_bytes=mean(group, lambda part: part.sample_bytes),
            seconds=mean(group, lambda part: part.seconds),
            enlarged=sum(part.enlarged for part in group),
            cut=mean(group, lambda part: part.cut),
        )
        for group in groups.values()
    ]
