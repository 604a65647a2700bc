"""Load the datasets of a run, leave out what the configuration does not want, and refuse what cannot be trained on."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...config.data import DataConfig, DatasetConfig
from ...errors import ConfigError, DataError
from ..media.clips import fits
from ..shards.index import Index, load_index
from .exclude import excluded_keys, keys_of, require_known
from .mixture import Knots

log = logging.getLogger("lavie")

CHUNK = 1 << 17
"""Samples whose columns are computed with at a time, so that temporary arrays stay small for datasets of millions."""


@dataclass(frozen=True)
class WeightedDataset:
    """The samples of one dataset of a run, with the weights by which positions take them."""

    index: Index
    name: str = ""
    """Seeds the dataset's permutations, and names it in errors; empty where bare paths make one dataset together."""
    weight: Knots = ((0, 1.0),)
    """Weight of the videos over the steps. A lone dataset needs no weight, so any constant will do."""
    image_weight: Knots = ((0, 1.0),)
    """Weight of the images over the steps."""
    left_out: tuple[str, ...] = ()
    """Sentences that tell which samples the configuration leaves out, and why."""


def load_datasets(data: DataConfig, train: Sequence[str | DatasetConfig]) -> tuple[WeightedDataset, ...]:
    """Return the datasets of `train`; bare paths make one dataset together.

    Raises:
        DataError: if they cannot give the clips and images that the configuration asks for.
        ConfigError: if a dataset has a weight, but nothing that the run takes.
    """
    configs = [entry for entry in train if isinstance(entry, DatasetConfig)]
    excluded = excluded_keys(data)
    if not configs:
        paths = tuple(entry for entry in train if isinstance(entry, str))
        index, left_out, found = _load_wanted(data, paths, excluded)
        require_known(excluded, found)
        lone = (WeightedDataset(index, left_out=left_out),)
        _check_kinds(lone, data, ", ".join(paths) or "data.train")
        return lone

    datasets = []
    all_found: set[str] = set()
    for config in configs:
        index, left_out, found = _load_wanted(data, config.path, excluded)
        all_found |= found
        image_weight = config.weight if config.image_weight is None else config.image_weight
        datasets.append(WeightedDataset(index, config.name, config.weight, image_weight, left_out))
    require_known(excluded, all_found)
    for dataset, config in zip(datasets, configs, strict=True):
        _check_weights(dataset, config, data)
    _check_kinds(datasets, data, "data.train")
    return tuple(datasets)


def long_enough(videos: Index, data: DataConfig, num_frames: Sequence[int]) -> np.ndarray:
    """Return whether each video is long enough for a clip of each number of frames: bool (len(num_frames), n videos).

    A video of variable rate is taken for one of its mean rate: its frames' times are known only when it is read.
    """
    frames, fps = videos.column("frames"), videos.column("fps")
    enough = np.empty((len(num_frames), len(videos)), bool)
    for chunk in chunks(len(videos)):
        # The answer depends on the frame count and the rate alone, so it is found once for each distinct pair of them.
        rates, rate_numbers = np.unique(fps[chunk], return_inverse=True)
        keys, pair_numbers = np.unique(frames[chunk] * np.int64(len(rates)) + rate_numbers, return_inverse=True)
        pairs = list(zip((keys // len(rates)).tolist(), rates[keys % len(rates)].tolist(), strict=True))
        for row, count in enumerate(num_frames):
            of_pairs = np.array([fits(*pair, count, data.fps, data.frame_stride) for pair in pairs])
            enough[row, chunk] = of_pairs[pair_numbers]
    return enough


def chunks(count: int) -> Iterator[slice]:
    """Return consecutive slices of at most CHUNK that cover `count` samples."""
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _check_weights(dataset: WeightedDataset, config: DatasetConfig, data: DataConfig) -> None:
    """Raise ConfigError if a dataset has a weight for what it lacks, or for nothing that the run takes."""
    index = dataset.index
    videos = bool(index.videos) and _ever_weighs(dataset.weight)
    images = bool(index.images) and _ever_weighs(dataset.image_weight)
    used = (videos and data.takes_videos) or (images and bool(data.num_images or data.moving_images))
    if (_ever_weighs(dataset.weight) or _ever_weighs(dataset.image_weight)) and not used:
        raise ConfigError(
            f"dataset {dataset.name} ({', '.join(config.path)}) has a weight, but nothing that this run takes: it has "
            f"{len(index.videos)} videos and {len(index.images)} images, with data.num_images "
            f"{data.num_images}. Set its weight to 0, or leave it out of data.train"
        )
    if config.image_weight is not None and _ever_weighs(config.image_weight) and not index.images:
        raise ConfigError(f"dataset {dataset.name} has an image_weight, but no images: leave it out")


def _ever_weighs(knots: Knots) -> bool:
    """Return whether a weight is above 0 at some step."""
    return any(weight for _, weight in knots)


def _check_kinds(datasets: Sequence[WeightedDataset], data: DataConfig, where: str) -> None:
    """Raise DataError if all datasets together lack videos, or images, that the configuration asks for."""
    size = f" of at least data.min_size {data.min_size} pixels" if data.min_size else ""
    image_size = f" of at least {data.smallest_image} pixels (data.min_image_size)" if data.min_image_size else size
    total = sum(len(dataset.index) for dataset in datasets)
    if data.takes_videos and not any(dataset.index.videos for dataset in datasets):
        share = "" if data.moving_images == 0 else f" (data.moving_images is {data.moving_images:g}; 1 needs none)"
        raise DataError(f"{where}: no videos among {total} samples{size}; every batch row starts with a clip{share}")
    for key in ("num_images", "moving_images"):
        if getattr(data, key) and not any(dataset.index.images for dataset in datasets):
            raise DataError(
                f"{where}: no images{image_size}, but data.{key} is {getattr(data, key):g}: "
                f"set data.{key}=0 or add images"
            )


def _load_wanted(
    data: DataConfig, paths: tuple[str, ...], excluded: frozenset[str]
) -> tuple[Index, tuple[str, ...], frozenset[str]]:
    """Return the samples of `paths` that the configuration wants, and sentences about those that are left out.

    Also returns which of the `excluded` keys are there. Their samples stay: spares stand in for them where they come.

    Raises:
        DataError: if a video is too short for any clip and data.drop_short is off, or if no sample is large enough.
        ConfigError: if too many of the samples are excluded.
    """
    where = ", ".join(paths) or "data.train"
    index = load_index(paths, data.remote)
    found, spared = keys_of(excluded, index, where)
    index, left_out = _drop_small(index, data, where)
    left_out += spared
    if data.takes_videos:
        index, short = _drop_short(index, data, where)
        left_out += short
    for sentence in left_out:
        log.info("data: %s", sentence)
    log.info("data: %s: %d videos, %d images", where, len(index.videos), len(index.images))
    return index, left_out, found


def _drop_small(index: Index, data: DataConfig, where: str) -> tuple[Index, tuple[str, ...]]:
    """Return the samples whose shorter side has as many pixels as their kind needs, and a sentence about the others.

    Raises DataError if none is that large.
    """
    side = np.minimum(index.column("width"), index.column("height"))
    large = side >= np.repeat([data.min_size, data.smallest_image], [len(index.videos), len(index.images)])
    if large.all():
        return index, ()
    count, small = int(np.count_nonzero(~large)), index[int(np.flatnonzero(~large)[0])]
    first = f"{small.key}, {small.width} x {small.height}"
    limit = f"data.min_size {data.min_size}"
    if data.min_image_size > data.min_size:
        limit = f"{limit} for videos, data.min_image_size {data.min_image_size} for images"
    left_out = f"{where}: {count} of {len(index)} samples are left out, whose shorter side is below {limit}"
    if not large.any():
        raise DataError(f"{left_out} (first: {first}): none is left. Lower the limit or add larger ones")
    return index.where(large), (f"{left_out} (first: {first})",)


def _drop_short(index: Index, data: DataConfig, where: str) -> tuple[Index, tuple[str, ...]]:
    """Return the samples without the videos too short for a clip of any size, and a sentence about these if any.

    Videos of variable rate stay, since their length in time is known only when they are read. Raises DataError if some
    are too short and data.drop_short is off.
    """
    videos, needed = index.videos, min(size.num_frames for size in data.sizes)
    short = ~long_enough(videos, data, [needed])[0] & ~videos.column("vfr")
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
