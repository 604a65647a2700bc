"""Count what a run will take of its datasets before it starts, by the same functions that it reads by."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...config.data import DataConfig
from ...errors import ConfigError
from ..shards.index import Index
from .buckets import Bucket, Buckets, load_buckets, scale_and_cut, source_sizes
from .datasets import WeightedDataset
from .mixture import weight_at
from .sample_order import image_order, video_order

Kind = Literal["videos", "images", "moving images"]
"""What a row shows of a dataset: a clip, images that join it, or an image under a moving camera in place of a clip."""

POINTS = 200
"""Steps, besides the first, at which the curves of a plan are computed: more than a plot can show apart."""


@dataclass(frozen=True)
class Exposure:
    """What a run takes of one kind of samples of one dataset in one bucket; or the sum over datasets, or buckets."""

    name: str
    """The dataset; empty for bare paths, and where several are summed."""
    kind: Kind
    bucket: str
    """Frames, height and width as in "16x320x512"; or "320x512" for images, which all buckets of that height and width
    share; empty where several are summed."""
    samples: int
    """How many samples there are to take from."""
    shards: frozenset[str]
    """Paths of the tars that hold them."""
    taken: list[int]
    """How many samples the run has taken before each of `DataPlan.steps`, repeats included."""
    shares: list[float]
    """The share of all clips, or of all images, that are taken here, at each of `DataPlan.steps`; in [0, 1]."""
    sample_bytes: float
    """Mean size in bytes of a sample's media file."""
    seconds: float
    """Mean time in seconds that one clip shows; 0 for images, moving ones too."""
    enlarged: int
    """How many of the samples are smaller than the frames that they fill."""
    cut: float
    """Mean share of a sample's picture that is cut away, in [0, 1)."""

    @property
    def epochs(self) -> list[float]:
        """How often the run has gone through the samples before each of `DataPlan.steps`."""
        return [taken / max(1, self.samples) for taken in self.taken]


@dataclass(frozen=True)
class BucketSteps:
    """How many of a run's steps have the size of one bucket."""

    name: str
    """Frames, height and width as in "16x320x512"."""
    taken: list[int]
    """How many steps before each of `DataPlan.steps` have this size."""
    shares: list[float]
    """The share of the steps that have this size, around each of `DataPlan.steps`; in [0, 1]."""


@dataclass(frozen=True)
class DataPlan:
    """What a run will take of its datasets.

    The share data.moving_images of its clips comes from images instead of videos. Which ones is drawn row by row, so
    the counts of videos and moving images are expected values; all others are exact.
    """

    steps: list[int]
    """The steps at which the plan is computed, ascending from 0 to the number of steps of the run."""
    global_batch: int
    """Clips of one step over all ranks."""
    num_images: int
    """Images that join each clip."""
    exposures: list[Exposure]
    """One for each bucket, kind and dataset that has samples there."""
    bucket_steps: list[BucketSteps]
    """One for each bucket."""
    samples: dict[tuple[str, str], int]
    """How many samples a dataset has, by kind and name. An image may count in the exposures of several buckets."""
    left_out: list[str]
    """Sentences that tell which samples the configuration leaves out, and why."""
    unsuited_shapes: list[str]
    """Heights and widths, as in "320x512", that the run takes images at and no image suits: all are cut to them."""

    @property
    def step_bytes(self) -> float:
        """Mean bytes of media files that all ranks together read in a step."""
        return sum(exposure.taken[-1] * exposure.sample_bytes for exposure in self.exposures) / self.steps[-1]

    @property
    def hours(self) -> float:
        """Hours of video that the run is shown."""
        return sum(exposure.taken[-1] * exposure.seconds for exposure in self.exposures) / 3600

    @property
    def by_dataset(self) -> list[Exposure]:
        """The exposures summed over all buckets: one for each kind and dataset."""
        summed = _summed(self.exposures, lambda exposure: (exposure.kind, exposure.name))
        return [replace(exposure, samples=self.samples[exposure.kind, exposure.name]) for exposure in summed]

    @property
    def by_bucket(self) -> list[Exposure]:
        """The exposures summed over all datasets: one for each kind and bucket."""
        return _summed(self.exposures, lambda exposure: (exposure.kind, exposure.bucket))


def make_plan(
    data: DataConfig,
    *,
    seed: int,
    steps: int,
    global_batch: int,
    max_epochs: float | None = None,
    buckets: Buckets | None = None,
) -> DataPlan:
    """Return the plan of a run.

    Args:
        data: the data section of its configuration.
        seed: of the run.
        steps: of the run.
        global_batch: clips of one step over all ranks.
        max_epochs: how often a kind of a dataset may be gone through; None: without limit.
        buckets: what `load_buckets` has made of data.train with this seed, if it was called before.

    Raises:
        ConfigError: if a dataset is never taken, or more than `max_epochs` times; or as `load_buckets` does.
        DataError: as `load_buckets` does.
    """
    buckets = buckets or load_buckets(data, data.train, seed)
    points = sorted({round(steps * i / POINTS) for i in range(POINTS + 1)})

    # How many clips and images there are of each kind, and what share of the clips' rows takes the kind.
    moving = data.moving_images
    exposures = []
    kinds: list[tuple[Kind, float, int]] = [
        ("videos", 1 - moving, int(data.takes_videos)),
        ("images", 1, data.num_images),
        ("moving images", moving, 1),
    ]
    for kind, share, per_clip in kinds:
        if share * per_clip == 0:
            continue
        # Buckets of one height and width share their images, so one of them stands for all.
        of_kind = buckets.all if kind == "videos" else {bucket.shape: bucket for bucket in buckets.all}.values()
        for bucket in of_kind:
            exposures += _exposures(kind, bucket, seed, points, global_batch * per_clip, share)

    plan = DataPlan(
        steps=points,
        global_batch=global_batch,
        num_images=data.num_images,
        exposures=exposures,
        bucket_steps=_bucket_steps(buckets, points),
        samples=_sample_counts(buckets),
        left_out=[sentence for dataset in buckets.datasets for sentence in dataset.left_out],
        unsuited_shapes=_unsuited_shapes(buckets, steps) if data.num_images or moving else [],
    )
    _check(plan, data, buckets, steps, max_epochs)
    return plan


def check_global_batch(global_batch: int, train_batch_size: int, world_size: int) -> int:
    """Return the gradient_accumulation_steps that make `global_batch`. Raises ConfigError if it does not divide."""
    per_pass = train_batch_size * world_size
    if global_batch % per_pass:
        raise ConfigError(
            f"a global batch of {global_batch} clips does not divide among {world_size} ranks with train_batch_size "
            f"{train_batch_size}: wanted a multiple of {per_pass}. Change --world-size or train_batch_size"
        )
    return global_batch // per_pass


def _bucket_steps(buckets: Buckets, points: list[int]) -> list[BucketSteps]:
    """Return the steps of each bucket, at the steps `points`."""
    return [
        BucketSteps(
            bucket.name,
            [buckets.steps.count(step, number) for step in points],
            [buckets.steps.shares(step)[number] for step in points],
        )
        for number, bucket in enumerate(buckets.all)
    ]


def _sample_counts(buckets: Buckets) -> dict[tuple[str, str], int]:
    """Return how many samples each dataset has, by kind and name."""
    counts: dict[tuple[str, str], int] = {}
    for dataset in buckets.datasets:
        counts["videos", dataset.name] = len(dataset.index.videos)
        counts["images", dataset.name] = counts["moving images", dataset.name] = len(dataset.index.images)
    return counts


def _unsuited_shapes(buckets: Buckets, steps: int) -> list[str]:
    """Return the heights and widths of steps before `steps` that no image suits, each once."""
    shapes = {
        bucket.shape: None
        for number, bucket in enumerate(buckets.all)
        if bucket.takes_all_images and buckets.steps.count(steps, number)
    }
    return list(shapes)


def _check(plan: DataPlan, data: DataConfig, buckets: Buckets, steps: int, max_epochs: float | None) -> None:
    """Raise ConfigError if a dataset is never taken, or more often than `max_epochs` times."""
    for dataset in buckets.datasets:
        if _idle(dataset, data, steps):
            raise ConfigError(
                f"dataset {dataset.name} is taken at none of the {steps} steps: its weight is 0 throughout. Give it a "
                "weight, raise max_train_steps, or leave it out of data.train"
            )
    for exposure in plan.by_dataset:
        if max_epochs is not None and exposure.epochs[-1] > max_epochs:
            raise ConfigError(
                f"{exposure.name or 'data.train'}: {exposure.taken[-1]} {exposure.kind} are taken of "
                f"{exposure.samples}: {exposure.epochs[-1]:.2f} epochs, above --max-epochs {max_epochs:g}. Lower its "
                "weight or max_train_steps, or add data"
            )


def _idle(dataset: WeightedDataset, data: DataConfig, steps: int) -> bool:
    """Return whether a run takes nothing of a dataset, since what it could take has the weight 0 at all its steps."""
    used = [dataset.weight] if dataset.index.videos and data.takes_videos else []
    used += [dataset.image_weight] if dataset.index.images and (data.num_images or data.moving_images) else []
    # Weights are linear between knots and at least 0, so they are 0 throughout if they are at the knots and both ends.
    telling_steps = {0, steps - 1, *(step for knots in used for step, _ in knots if step < steps)}
    return not any(weight_at(knots, step) for knots in used for step in telling_steps)


def _exposures(kind: Kind, bucket: Bucket, seed: int, points: list[int], per_step: int, share: float) -> list[Exposure]:
    """Return what a bucket takes of one kind of each dataset, one exposure for each dataset that has samples.

    Args:
        kind: of the samples.
        bucket: its datasets, and the steps that are its.
        seed: of the run.
        points: the steps at which to count.
        per_step: positions that the order of this kind has in each step of the bucket.
        share: the fraction of these positions whose rows take this kind, in (0, 1]: below 1 where rows show either a
            video or a moving image.
    """
    if kind == "videos":
        step_count = bucket.step_count
        order = video_order(bucket.datasets, seed, per_step, step_count)
    else:
        step_count = bucket.image_step_count
        order = image_order(bucket.datasets, seed, per_step, kind, step_count)
    if order.mixture is None:
        return []

    # Before a step, the order has gone through `counts` positions of each dataset; at it, a dataset has its share of
    # the bucket's positions, times the share of the steps that are the bucket's.
    counts = [order.mixture.counts(step * per_step) for step in points]
    dataset_shares = [order.mixture.shares(step) for step in points]
    step_shares = [step_count.share(step) if step_count else 1.0 for step in points]
    exposures = []
    for number, (name, samples) in enumerate(zip(order.names, order.samples, strict=True)):
        enlarged, cut = _fitting(samples, bucket.data)
        exposures.append(
            Exposure(
                name=name,
                kind=kind,
                bucket=bucket.name if kind == "videos" else bucket.shape,
                samples=len(samples),
                shards=frozenset(np.array(samples.shards)[np.unique(samples.column("shard"))].tolist()),
                taken=[round(count[number] * share) for count in counts],
                shares=[a * b[number] for a, b in zip(step_shares, dataset_shares, strict=True)],
                sample_bytes=float(samples.column("size").mean(dtype=np.float64)),
                seconds=_clip_seconds(samples, bucket.data) if kind == "videos" else 0.0,
                enlarged=enlarged,
                cut=cut,
            )
        )
    return exposures


def _fitting(samples: Index, data: DataConfig) -> tuple[int, float]:
    """Return how many samples are enlarged to fill the frames, and the mean share of a picture that is cut away."""
    enlarged, total = 0, 0.0
    for _, widths, heights in source_sizes(samples):
        scale, cut = scale_and_cut(widths, heights, data.height, data.width, data.crop)
        enlarged, total = enlarged + int((scale > 1).sum()), total + float(cut.sum())
    return enlarged, total / len(samples)


def _clip_seconds(videos: Index, data: DataConfig) -> float:
    """Return the mean time in seconds that a clip of these videos shows."""
    if data.fps:
        return data.num_frames / data.fps
    return data.num_frames * (data.frame_stride or 1) * float((1 / videos.column("fps")).mean())


def _summed(exposures: list[Exposure], key: Callable[[Exposure], tuple[str, str]]) -> list[Exposure]:
    """Return one exposure for each key: the sums of counts and shares, and the means over the samples."""
    groups: dict[tuple[str, str], list[Exposure]] = {}
    for exposure in exposures:
        groups.setdefault(key(exposure), []).append(exposure)
    return [_sum(group) for group in groups.values()]


def _sum(group: list[Exposure]) -> Exposure:
    """Return several exposures of one kind as one. A name or bucket in which they differ becomes empty."""
    samples = sum(exposure.samples for exposure in group)

    def common(values: set[str]) -> str:
        """Return the one value of a set, or an empty text if it has several."""
        return values.pop() if len(values) == 1 else ""

    def mean(value: Callable[[Exposure], float]) -> float:
        """Return the mean of a value over the samples of the group."""
        return sum(value(exposure) * exposure.samples for exposure in group) / samples

    return Exposure(
        name=common({exposure.name for exposure in group}),
        kind=group[0].kind,
        bucket=common({exposure.bucket for exposure in group}),
        samples=samples,
        shards=frozenset().union(*(exposure.shards for exposure in group)),
        taken=[sum(column) for column in zip(*(exposure.taken for exposure in group), strict=True)],
        shares=[sum(column) for column in zip(*(exposure.shares for exposure in group), strict=True)],
        sample_bytes=mean(lambda exposure: exposure.sample_bytes),
        seconds=mean(lambda exposure: exposure.seconds),
        enlarged=sum(exposure.enlarged for exposure in group),
        cut=mean(lambda exposure: exposure.cut),
    )
