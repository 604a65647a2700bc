"""Several sizes of clips in one run: which samples each takes, and at which steps its turn comes.

All rows of a step have one size, its bucket. That is a function of the seed and the step alone, by the countable
sequence that mixes datasets too; inside a bucket the order is that of a run of its own samples and steps alone.

A video belongs to one bucket. Of those that it is long enough for, the ones suit it that enlarge it least, and, of
these, that cut least of its picture away, each time up to a tenth more or less; of the ones that suit it, it goes to
the one that shows most pixels. An image joins the clips of every bucket that suits it, as it can at any length and
size; buckets of the same height and width go through their images together. Where no image suits a bucket, all are cut
to fit it.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...config.data import BucketConfig, DataConfig, DatasetConfig
from ...errors import ConfigError
from ..media.clips import Crop
from ..shards.index import Index
from .datasets import WeightedDataset, chunks, clips_held, load_datasets
from .mixture import Knots, Mixture, StepCount, weight_at

log = logging.getLogger("lavie")

ALIKE = 0.1
"""A tenth more of enlarging, or of the picture cut away, counts as the same. Sizes are multiples of the latents' stride
and sources are odd by some pixels: one of 1278 x 718 is to go where 1280 x 720 does."""


@dataclass(frozen=True)
class Bucket:
    """One size of a run's clips, the samples that it takes, and the steps at which it does."""

    data: DataConfig
    """The run's, with this one size."""
    datasets: tuple[WeightedDataset, ...]
    """The run's, with the samples that belong here. Weights are those of the run times the share of the samples."""
    step_count: StepCount | None = None
    """Counts its steps; None: all are."""
    image_step_count: StepCount | None = None
    """Counts the steps of all buckets of its height and width."""
    takes_all_images: bool = False
    """Whether its images are all that there are, since none suits it."""

    @property
    def name(self) -> str:
        """As "16x320x512": frames, height, width."""
        return self.data.size.name

    @property
    def shape(self) -> str:
        """As "320x512": height, width."""
        return f"{self.data.height}x{self.data.width}"


@dataclass(frozen=True)
class Buckets:
    """The sizes of a run, and the bucket of each of its steps."""

    datasets: tuple[WeightedDataset, ...]
    """The datasets as a whole."""
    all: tuple[Bucket, ...]
    steps: Mixture
    """`steps.at(step)` gives the number of the step's bucket, and how many steps before it had the same."""

    def at(self, step: int) -> Bucket:
        """The bucket of a step, counted from 0."""
        return self.all[self.steps.at(step)[0]]


def load_buckets(data: DataConfig, train: Sequence[str | DatasetConfig], seed: int) -> Buckets:
    """The datasets of `train` sorted into data.buckets; without these, one bucket of all.

    Raises DataError or ConfigError as `load_datasets` does, and ConfigError if a bucket has a weight and no video.
    """
    pools = load_datasets(data, train)
    if not data.buckets:
        return Buckets(pools, (Bucket(data, pools),), Mixture([[(0, 1.0)]], [""], 1, seed, "buckets"))
    shapes = list(dict.fromkeys(size.shape for size in data.buckets))
    videos = [_videos(pool.index.videos, data) for pool in pools]
    images = [_images(pool.index.images, shapes, data.crop) for pool in pools]
    bare = {shape for number, shape in enumerate(shapes) if not any(suited[number].any() for suited in images)}
    parts = []
    for number, size in enumerate(data.buckets):
        joined = [np.ones(i.shape[1], bool) if size.shape in bare else i[shapes.index(size.shape)] for i in images]
        chosen = zip(pools, videos, joined, strict=True)
        parts.append(tuple(_part(pool, homes == number, joining) for pool, homes, joining in chosen))
    weights = [size.weight or _natural(part) for size, part in zip(data.buckets, parts, strict=True)]
    _check(data, parts, weights)
    steps = Mixture(weights, [size.name for size in data.buckets], 1, seed, "buckets")
    buckets = []
    for number, (size, part) in enumerate(zip(data.buckets, parts, strict=True)):
        alike = tuple(i for i, other in enumerate(data.buckets) if other.shape == size.shape)
        step_count = StepCount(steps, (number,), f" in bucket {size.name}")
        image_step_count = StepCount(steps, alike, f" in bucket {size.name}")
        buckets.append(Bucket(data.of_size(size), part, step_count, image_step_count, size.shape in bare))
    return Buckets(pools, tuple(buckets), steps)


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


def suiting(
    widths: np.ndarray, heights: np.ndarray, held: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop
) -> tuple[np.ndarray, np.ndarray]:
    """Which of `sizes` suit each source by the rule above, bool (sizes, n), and what they cut away, inf for the rest.

    held: bool (sizes, n), whether the source is long enough for a clip of the size; for one size at least.
    """
    pictures = [picture(widths, heights, size.height, size.width, crop) for size in sizes]
    scale, cut = (np.stack(each) for each in zip(*pictures, strict=True))
    enlarging = np.where(held, np.maximum(1.0, scale), np.inf)
    cut = np.where(enlarging <= (1 + ALIKE) * enlarging.min(0), cut, np.inf)
    suits = cut <= ALIKE + cut.min(0)
    return suits, np.where(suits, cut, np.inf)


def choose(
    widths: np.ndarray, heights: np.ndarray, held: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop
) -> np.ndarray:
    """Which of `sizes` each source goes to: int64 (n,). Arguments as for `suiting`."""
    suits, cut = suiting(widths, heights, held, sizes, crop)
    pixels = suits * np.array([[size.num_frames * size.height * size.width] for size in sizes])
    return np.where(pixels == pixels.max(0), cut, np.inf).argmin(0)


def _videos(videos: Index, data: DataConfig) -> np.ndarray:
    """The number of each video's bucket: uint16 (n,)."""
    counts = [bucket.num_frames for bucket in data.buckets]
    held = clips_held(videos, data, counts)
    held[np.array(counts) == min(counts)] = True  # of the others it is known, and those of variable rate may try
    homes = np.empty(len(videos), np.uint16)
    for part, widths, heights in pictures(videos):
        homes[part] = choose(widths, heights, held[:, part], data.buckets, data.crop)
    return homes


def _images(images: Index, shapes: Sequence[tuple[int, int]], crop: Crop) -> np.ndarray:
    """Which heights and widths suit each image: bool (shapes, n)."""
    sizes = [BucketConfig(num_frames=1, height=height, width=width) for height, width in shapes]
    result = np.empty((len(sizes), len(images)), bool)
    for part, widths, heights in pictures(images):
        held = np.ones((len(sizes), len(widths)), bool)
        result[:, part], _ = suiting(widths, heights, held, sizes, crop)
    return result


def pictures(samples: Index) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Samples some at a time: which, and their widths and heights, float64 (n,) each."""
    columns = [samples.column(name) for name in ("width", "height")]
    for part in chunks(len(samples)):
        widths, heights = (column[part].astype(np.float64) for column in columns)
        yield part, widths, heights


def _part(pool: WeightedDataset, videos: np.ndarray, images: np.ndarray) -> WeightedDataset:
    """What of a dataset belongs to a bucket; `videos` and `images` are masks of these."""
    return replace(
        pool,
        index=pool.index.where(np.concatenate([videos, images])),
        weight=_times(pool.weight, videos),
        image_weight=_times(pool.image_weight, images),
    )


def _times(knots: Knots, chosen: np.ndarray) -> Knots:
    share = float(np.count_nonzero(chosen)) / max(1, len(chosen))
    return tuple((step, weight * share) for step, weight in knots)


def _natural(pools: Iterable[WeightedDataset]) -> Knots:
    """The weight with which a bucket leaves the datasets theirs: what its parts of them weigh together."""
    weights = [pool.weight for pool in pools if pool.index.videos]
    steps = sorted({0, *(step for knots in weights for step, _ in knots)})
    return tuple((step, float(sum(weight_at(knots, step) for knots in weights))) for step in steps)


def _check(data: DataConfig, parts: Sequence[Sequence[WeightedDataset]], weights: Sequence[Knots]) -> None:
    """Raise ConfigError if a step has no bucket, or a bucket has a weight and nothing to show."""
    for step in sorted({0, *(step for knots in weights for step, _ in knots)}):
        if not any(weight_at(knots, step) for knots in weights):
            whose = "data.buckets: at step {} the weights of all buckets"
            if not data.buckets[0].weight:
                whose = "data.train: at step {} the weights of all datasets with videos"
            raise ConfigError(f"{whose.format(step)} are 0: give one of them a weight there")
    for bucket, pools, knots in zip(data.buckets, parts, weights, strict=True):
        videos = sum(len(pool.index.videos) for pool in pools)
        log.info("data: bucket %s: %d videos", bucket.name, videos)
        if any(weight for _, weight in knots) and not videos and data.moving_images < 1:
            raise ConfigError(f"data.buckets: {bucket.name} has a weight, but no video belongs there: leave it out")
