"""Several sizes of clips in one run: which samples each takes, and at which steps its turn comes.

All rows of a step have one size, its bucket. That is a function of the seed and the step alone, by the countable
sequence that mixes datasets too; inside a bucket the order is that of a run of its own samples and steps alone.

A video belongs to one bucket. Of those that it is long enough for, the ones that enlarge it least are taken; of these,
the ones that cut least of its picture away; of these, the one that shows most pixels of it. Images are sorted by height
and width alike: buckets that have these in common share their images.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from ..config_data import BucketConfig, DataConfig, DatasetConfig, DegradationConfig
from ..errors import ConfigError, DataError
from .clips import Crop
from .index import Index
from .mixture import Clock, Knots, Mixture, weight_at
from .pools import Pool, clips_held, image_weight, load_pools
from .rows import Announce, ClipDataset, Row

log = logging.getLogger("lavie")

ALIKE = 0.1
"""A tenth more of enlarging, or of the picture cut away, counts as the same. Sizes are multiples of the latents' stride
and sources are odd by some pixels: one of 1278 x 718 is to go where 1280 x 720 does."""
CHUNK = 1 << 17
"""Samples that are looked at at a time, which bounds the memory that sorting takes."""


@dataclass(frozen=True)
class Bucket:
    """One size of a run's clips, the samples that it takes, and the steps at which it does."""

    data: DataConfig
    """The run's, with this one size."""
    pools: tuple[Pool, ...]
    """The run's, with the samples that belong here. Weights are those of the run times the share of the samples."""
    clock: Clock | None = None
    """Counts its steps; None: all are."""
    image_clock: Clock | None = None
    """Counts the steps of all buckets of its height and width."""

    @property
    def name(self) -> str:
        """As "16x320x512": frames, height, width."""
        return self.data.sizes[0].name

    @property
    def shape(self) -> str:
        """As "320x512": height, width."""
        return f"{self.data.height}x{self.data.width}"


@dataclass(frozen=True)
class Buckets:
    """The sizes of a run, and the bucket of each of its steps."""

    each: tuple[Bucket, ...]
    steps: Mixture
    """`steps.at(step)` gives the number of the step's bucket, and how many steps before it had the same."""

    def at(self, step: int) -> Bucket:
        """The bucket of a step, counted from 0."""
        return self.each[self.steps.at(step)[0]]


class BucketDataset(Dataset):
    """Maps a global position to its Row, which has the size of the step's bucket. Arguments as for ClipDataset."""

    def __init__(
        self, buckets: Buckets, seed: int, *, global_batch: int, degradation: DegradationConfig | None = None
    ) -> None:
        self._steps, self._global_batch = buckets.steps, global_batch
        self._each = [
            ClipDataset(
                bucket.pools,
                bucket.data,
                seed,
                global_batch=global_batch,
                degradation=degradation,
                clocks=(bucket.clock, bucket.image_clock),
            )
            for bucket in buckets.each
        ]

    def __getitem__(self, position: int) -> Row | DataError:
        return self._at(position)[position]

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """As ClipDataset.row."""
        return self._at(position).row(position, unreadable, announce)

    @property
    def row_bytes(self) -> int:
        """The size of the largest row's arrays."""
        return max(dataset.row_bytes for dataset in self._each)

    def _at(self, position: int) -> ClipDataset:
        return self._each[self._steps.at(position // self._global_batch)[0]]


def load_buckets(data: DataConfig, train: Sequence[str | DatasetConfig], seed: int) -> Buckets:
    """The datasets of `train` sorted into data.buckets; without these, one bucket of all.

    Raises DataError or ConfigError as `load_pools` does, and ConfigError if a bucket's turn comes and it has nothing.
    """
    pools = load_pools(data, train)
    if not data.buckets:
        return Buckets((Bucket(data, pools),), Mixture([[(0, 1.0)]], [""], 1, seed, "buckets"))
    homes = [_homes(pool.index, data) for pool in pools]
    parts = []
    for number, bucket in enumerate(data.buckets):
        shape = _shapes(data).index((bucket.height, bucket.width))
        chosen = [(videos == number, images == shape) for videos, images in homes]
        parts.append(tuple(_part(pool, *masks) for pool, masks in zip(pools, chosen, strict=True)))
    weights = [b.weight or _natural(part) for b, part in zip(data.buckets, parts, strict=True)]
    _check(data, parts, weights)
    steps = Mixture(weights, [bucket.name for bucket in data.buckets], 1, seed, "buckets")
    buckets = []
    for number, (bucket, part) in enumerate(zip(data.buckets, parts, strict=True)):
        size = bucket.model_dump(include={"num_frames", "height", "width"})
        alike = [i for i, b in enumerate(data.buckets) if (b.height, b.width) == (bucket.height, bucket.width)]
        buckets.append(
            Bucket(
                data.model_copy(update={**size, "buckets": ()}),
                part,
                Clock(steps, (number,), f" in bucket {bucket.name}"),
                Clock(steps, tuple(alike), f" of bucket {bucket.name}"),
            )
        )
    return Buckets(tuple(buckets), steps)


def picture(
    widths: np.ndarray, heights: np.ndarray, height: int, width: int, crop: Crop
) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of sources when height x width is cut out of them, as `clips.fit` does it: float64 (n,) each.

    By what factor they are scaled, and what share of their pixels is cut away.
    """
    scale = np.maximum(height / heights, width / widths)
    if crop == "patch":
        scale = np.maximum(1.0, scale)
    return scale, 1 - height * width / (scale**2 * heights * widths)


def choose(
    widths: np.ndarray, heights: np.ndarray, held: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop
) -> np.ndarray:
    """Which of `sizes` each source belongs to, by the rule above: int64 (n,).

    held: bool (sizes, n), whether the source is long enough for a clip of the size; for one size at least.
    """
    pictures = [picture(widths, heights, size.height, size.width, crop) for size in sizes]
    scale, cut = (np.stack(each) for each in zip(*pictures, strict=True))
    enlarging = np.where(held, np.maximum(1.0, scale), np.inf)
    taken = held & (enlarging <= (1 + ALIKE) * enlarging.min(0))
    cut = np.where(taken, cut, np.inf)
    taken &= cut <= ALIKE + cut.min(0)
    pixels = np.array([[size.num_frames * size.height * size.width] for size in sizes])
    pixels = np.where(taken, pixels, 0)
    return np.where(pixels == pixels.max(0), cut, np.inf).argmin(0)


def _shapes(data: DataConfig) -> list[tuple[int, int]]:
    """The heights and widths of the buckets, each once."""
    return list(dict.fromkeys((bucket.height, bucket.width) for bucket in data.buckets))


def _homes(index: Index, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """The number of each video's bucket, and of each image's height and width: uint16 (videos,) and (images,)."""
    counts = [bucket.num_frames for bucket in data.buckets]
    held = clips_held(index.videos, data, counts)
    held[np.array(counts) == min(counts)] = True  # of the others it is known, and those of variable rate may try
    shapes = [BucketConfig(num_frames=1, height=height, width=width) for height, width in _shapes(data)]
    images = index.images
    return (
        _sort(index.videos, held, data.buckets, data.crop),
        _sort(images, np.ones((len(shapes), len(images)), bool), shapes, data.crop),
    )


def _sort(samples: Index, held: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop) -> np.ndarray:
    widths, heights = (samples.column(name) for name in ("width", "height"))
    homes = np.empty(len(samples), np.uint16)
    for start in range(0, len(samples), CHUNK):
        part = slice(start, start + CHUNK)
        homes[part] = choose(widths[part].astype(float), heights[part].astype(float), held[:, part], sizes, crop)
    return homes


def _part(pool: Pool, videos: np.ndarray, images: np.ndarray) -> Pool:
    """What of a dataset belongs to a bucket; `videos` and `images` are masks of these."""
    return replace(
        pool,
        index=pool.index.where(np.concatenate([videos, images])),
        weight=_times(pool.weight, videos),
        image_weight=_times(image_weight(pool), images),
    )


def _times(knots: Knots, chosen: np.ndarray) -> Knots:
    share = np.count_nonzero(chosen) / max(1, len(chosen))
    return tuple((step, weight * share) for step, weight in knots)


def _natural(pools: Iterable[Pool]) -> Knots:
    """The weight with which a bucket leaves the datasets theirs: what its parts of them weigh together."""
    weights = [pool.weight for pool in pools if pool.index.videos]
    steps = sorted({0, *(step for knots in weights for step, _ in knots)})
    return tuple((step, float(sum(weight_at(knots, step) for knots in weights))) for step in steps)


def _check(data: DataConfig, parts: Sequence[Sequence[Pool]], weights: Sequence[Knots]) -> None:
    """Raise ConfigError if a step has no bucket, or a bucket whose turn comes has nothing to show."""
    for step in sorted({0, *(step for knots in weights for step, _ in knots)}):
        if not any(weight_at(knots, step) for knots in weights):
            whose = "data.buckets: at step {} the weights of all buckets"
            if not data.buckets[0].weight:
                whose = "data.train: at step {} the weights of all datasets with videos"
            raise ConfigError(f"{whose.format(step)} are 0: give one of them a weight there")
    for bucket, pools, knots in zip(data.buckets, parts, weights, strict=True):
        videos, images = (sum(len(getattr(pool.index, kind)) for pool in pools) for kind in ("videos", "images"))
        log.info("data: bucket %s: %d videos, %d images of its height and width", bucket.name, videos, images)
        if not any(weight for _, weight in knots):
            continue
        if not videos and data.moving_images < 1:
            raise ConfigError(f"data.buckets: {bucket.name} has a weight, but no video belongs there: leave it out")
        for key in ("num_images", "moving_images"):
            if getattr(data, key) and not images:
                raise ConfigError(
                    f"data.buckets: no image belongs to frames of {bucket.height} x {bucket.width}, but data.{key} is "
                    f"{getattr(data, key):g}: add images of that shape, leave {bucket.name} out, or set data.{key}=0"
                )
