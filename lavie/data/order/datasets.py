"""The datasets of a run, checked against its configuration, and the order in which their samples come."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...config.data import DataConfig, DatasetConfig
from ...errors import ConfigError, DataError
from ..media.clips import fits
from ..shards.index import Index, load_index
from ..shards.index_file import Sample
from .mixture import Knots, Mixture, StepCount
from .permutation import sample_at, spare_at

log = logging.getLogger("lavie")

CHUNK = 1 << 17
"""Samples whose columns are computed with at a time, which bounds the memory that millions take."""


@dataclass(frozen=True)
class WeightedDataset:
    """One dataset of a mixture, or all of data.train as a single pool."""

    index: Index
    name: str = ""
    """Seeds its order; empty for a single pool."""
    weight: Knots = ((0, 1.0),)
    image_weight: Knots = ((0, 1.0),)
    left_out: tuple[str, ...] = ()
    """What of the dataset the index lacks because the configuration says so, and why."""


class SampleOrder:
    """An endless order of samples: each position takes a dataset, which goes through its own permutation."""

    def __init__(
        self,
        pools: Sequence[WeightedDataset],
        samples: Callable[[WeightedDataset], Index],
        weight: Callable[[WeightedDataset], Knots],
        purpose: str,
        seed: int,
        per_step: int,
        step_count: StepCount | None = None,
    ) -> None:
        """Mixes the pools that have `samples`, by their `weight`; there are `per_step` positions to a step.

        With `step_count`, the positions are those of the steps it counts.
        """
        pools = [pool for pool in pools if samples(pool)]
        self.names = [pool.name for pool in pools]
        self.samples = [samples(pool) for pool in pools]
        weights = [weight(pool) for pool in pools]
        self.mixture = Mixture(weights, self.names, per_step, seed, purpose, step_count) if pools else None
        self._seed, self._purpose = seed, purpose

    def at(self, position: int, attempt: int = 0) -> Sample:
        """The sample at a position, or the spare of the same dataset that stands in for it at attempt 1, 2, ..."""
        assert self.mixture is not None
        dataset, place = self.mixture.at(position)
        samples, name = self.samples[dataset], self.names[dataset]
        purpose = f"{self._purpose} of {name}" if name else self._purpose
        if attempt:
            return samples[spare_at(place, attempt, len(samples), self._seed, purpose)]
        return samples[sample_at(place, len(samples), self._seed, purpose)]


def video_order(
    pools: Sequence[WeightedDataset], seed: int, global_batch: int, step_count: StepCount | None = None
) -> SampleOrder:
    """The order of the clips."""
    return SampleOrder(
        pools, lambda pool: pool.index.videos, lambda pool: pool.weight, "videos", seed, global_batch, step_count
    )


def image_order(
    pools: Sequence[WeightedDataset],
    seed: int,
    per_step: int,
    purpose: str = "images",
    step_count: StepCount | None = None,
) -> SampleOrder:
    """The order of the images, with their own weights."""
    return SampleOrder(
        pools, lambda pool: pool.index.images, lambda pool: pool.image_weight, purpose, seed, per_step, step_count
    )


def load_datasets(data: DataConfig, train: Sequence[str | DatasetConfig]) -> tuple[WeightedDataset, ...]:
    """The datasets of `train`, or its paths as one pool.

    Raises DataError if they cannot give the clips and images that the configuration wants, and ConfigError if a dataset
    has a weight and nothing to give.
    """
    datasets = [entry for entry in train if isinstance(entry, DatasetConfig)]
    pools: tuple[WeightedDataset, ...]
    if not datasets:
        paths = tuple(entry for entry in train if isinstance(entry, str))
        index, left_out = _usable(data, paths)
        pools = (WeightedDataset(index, left_out=left_out),)
        where = ", ".join(paths) or "data.train"
    else:
        usable = [_usable(data, d.path) for d in datasets]
        pools = tuple(
            WeightedDataset(index, d.name, d.weight, d.weight if d.image_weight is None else d.image_weight, left_out)
            for d, (index, left_out) in zip(datasets, usable, strict=True)
        )
        where = "data.train"
        for pool, dataset in zip(pools, datasets, strict=True):
            _check_weights(pool, dataset, data)
    _check_kinds(pools, data, where)
    return pools


def _check_weights(pool: WeightedDataset, dataset: DatasetConfig, data: DataConfig) -> None:
    videos, images = (
        bool(samples) and any(weight for _, weight in knots)
        for samples, knots in ((pool.index.videos, pool.weight), (pool.index.images, pool.image_weight))
    )
    used = (videos and data.moving_images < 1) or (images and bool(data.num_images or data.moving_images))
    if any(weight for _, weight in (*pool.weight, *pool.image_weight)) and not used:
        raise ConfigError(
            f"dataset {pool.name} ({', '.join(dataset.path)}) has a weight, but nothing that this run takes: it has "
            f"{len(pool.index.videos)} videos and {len(pool.index.images)} images, with data.num_images "
            f"{data.num_images}. Set its weight to 0, or leave it out of data.train"
        )
    if any(weight for _, weight in dataset.image_weight or ()) and not pool.index.images:
        raise ConfigError(f"dataset {pool.name} has an image_weight, but no images: leave it out")


def _check_kinds(pools: Sequence[WeightedDataset], data: DataConfig, where: str) -> None:
    size = f" of at least data.min_size {data.min_size} pixels" if data.min_size else ""
    total = sum(len(pool.index) for pool in pools)
    if data.moving_images < 1 and not any(pool.index.videos for pool in pools):
        share = "" if data.moving_images == 0 else f" (data.moving_images is {data.moving_images:g}; 1 needs none)"
        raise DataError(f"{where}: no videos among {total} samples{size}; every batch row starts with a clip{share}")
    for key in ("num_images", "moving_images"):
        if getattr(data, key) and not any(pool.index.images for pool in pools):
            raise DataError(
                f"{where}: no images{size}, but data.{key} is {getattr(data, key):g}: set data.{key}=0 or add images"
            )


def _usable(data: DataConfig, paths: tuple[str, ...]) -> tuple[Index, tuple[str, ...]]:
    """The samples of `paths` that the configuration wants, and what is left out.

    Raises DataError if a video is too short for a clip, unless data.drop_short leaves it out, or if nothing is left.
    """
    where = ", ".join(paths) or "data.train"
    index, notes = _large_enough(load_index(paths, data.remote), data.min_size, where)
    if data.moving_images < 1:
        index, short = _long_enough(index, data, where)
        notes += short
    for note in notes:
        log.info("data: %s", note)
    log.info("data: %s: %d videos, %d images", where, len(index.videos), len(index.images))
    return index, notes


def clips_held(videos: Index, data: DataConfig, num_frames: Sequence[int]) -> np.ndarray:
    """Whether each video holds a clip of so many frames: bool (len(num_frames), len(videos)).

    Those of variable rate are taken for constant ones: they tell when they are read.
    """
    frames, fps = videos.column("frames"), videos.column("fps")
    held = np.empty((len(num_frames), len(videos)), bool)
    for part in chunks(len(videos)):
        rates, rate = np.unique(fps[part], return_inverse=True)
        kinds, kind = np.unique(frames[part] * np.int64(len(rates)) + rate, return_inverse=True)
        pairs = list(zip((kinds // len(rates)).tolist(), rates[kinds % len(rates)].tolist(), strict=True))
        for row, count in enumerate(num_frames):
            held[row, part] = np.array([fits(*pair, count, data.fps, data.frame_stride) for pair in pairs])[kind]
    return held


def chunks(count: int) -> Iterator[slice]:
    """Some of `count` samples at a time."""
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _long_enough(index: Index, data: DataConfig, where: str) -> tuple[Index, tuple[str, ...]]:
    """The samples without videos too short for any clip. Raises DataError if there are some, unless data.drop_short."""
    videos, needed = index.videos, min(size.num_frames for size in data.sizes)
    short = ~clips_held(videos, data, [needed])[0] & ~videos.column("vfr")
    if not short.any():
        return index, ()
    first = videos[int(np.flatnonzero(short)[0])].key
    rate = f"{data.fps:g} fps" if data.fps else f"frame stride {data.frame_stride}"
    found = f"{where}: {np.count_nonzero(short)} of {len(videos)} videos"
    what = f"hold no clip of {needed} frames at {rate} (first: {first})"
    if data.drop_short:
        keep = np.concatenate([~short, np.ones(len(index.images), bool)])
        return index.where(keep), (f"{found} are left out, which {what}",)
    flag = f"--fps {data.fps:g}" if data.fps else f"--frame-stride {data.frame_stride}"
    key = "the shortest of data.buckets" if data.buckets else "data.num_frames"
    raise DataError(
        f"{found} {what}. Change {key}, data.fps or data.frame_stride, or leave them out: with data.drop_short=true, "
        f"or by `lavie data pack --num-frames {needed} {flag}`"
    )


def _large_enough(index: Index, min_size: int, where: str) -> tuple[Index, tuple[str, ...]]:
    """The samples whose shorter side has at least `min_size` pixels. Raises DataError if there is none."""
    large = np.minimum(index.column("width"), index.column("height")) >= min_size
    if large.all():
        return index, ()
    count, small = int(np.count_nonzero(~large)), index[int(np.flatnonzero(~large)[0])]
    first = f"{small.key}, {small.width} x {small.height}"
    left_out = f"{where}: {count} of {len(index)} samples are left out, whose shorter side is below data.min_size"
    if not large.any():
        raise DataError(f"{left_out} {min_size} (first: {first}): none is left. Lower data.min_size or add larger ones")
    return index.where(large), (f"{left_out} {min_size} (first: {first})",)
