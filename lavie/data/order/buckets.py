"""Sort the samples of a run into buckets, the sizes of its clips, and choose the bucket of every step.

All rows of a step have the size of one bucket. Which one is a pure function of the seed and the step, by the same
counted mixture that mixes datasets. Inside a bucket, samples come in the order of a run that has this bucket alone.

A video belongs to exactly one bucket:

1. Keep the buckets for whose clips the video is long enough.
2. Of these, keep those that enlarge its picture least, up to a tenth more (ALIKE).
3. Of these, keep those that cut least of its picture away, up to a tenth of the picture more.
4. Of these, take the one that shows most pixels (frames x height x width); on a tie the one that cuts least away, and
   then the first in data.buckets.

An image has no length and joins clips of any number of frames:

1. It joins the clips of every bucket whose height and width suit it by rules 2 and 3.
2. Buckets of the same height and width go through their images together, as one order.
3. Where no image suits a height and width, all images are cut to fit it.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...config.data import BucketConfig, DataConfig, DatasetConfig
from ...errors import ConfigError
from ..media.clips import Crop
from ..shards.index import Index
from .datasets import WeightedDataset, chunks, load_datasets, long_enough
from .mixture import Knots, Mixture, StepCount, weight_at

log = logging.getLogger("lavie")

ALIKE = 0.1
"""How much more may be enlarged (relative) or cut away (share of the picture) and still count as the same. Sizes are
multiples of the latents' stride and sources are odd by some pixels: a video of 1278 x 718 belongs with 1280 x 720."""


@dataclass(frozen=True)
class Bucket:
    """One size of a run's clips, the samples that it takes, and the steps at which it takes them."""

    data: DataConfig
    """The data section of the run, with this one size."""
    datasets: tuple[WeightedDataset, ...]
    """All datasets of the run, each reduced to the samples that belong here. A weight is that of the run times the
    share of the dataset's samples that are here."""
    step_count: StepCount | None = None
    """Counts the steps of this bucket; None if it is the only one, and all steps are its."""
    image_step_count: StepCount | None = None
    """Counts the steps of all buckets of this height and width, which share their images; None as above."""
    takes_all_images: bool = False
    """Whether the bucket holds all images, because none suits its height and width."""

    @property
    def name(self) -> str:
        """Frames, height and width, as in "16x320x512"."""
        return self.data.size.name

    @property
    def shape(self) -> str:
        """Height and width, as in "320x512"."""
        return f"{self.data.height}x{self.data.width}"


@dataclass(frozen=True)
class Buckets:
    """All buckets of a run, and which of them each step takes."""

    datasets: tuple[WeightedDataset, ...]
    """The datasets of the run before they are divided among the buckets."""
    all: tuple[Bucket, ...]
    """In the order of data.buckets; one bucket of everything where there are none."""
    steps: Mixture
    """Chooses the bucket of each step: `steps.at(step)` gives its number in `all`, and how many steps had it before."""

    def at(self, step: int) -> Bucket:
        """Return the bucket of a step, counted from 0."""
        return self.all[self.steps.at(step)[0]]


def load_buckets(data: DataConfig, train: Sequence[str | DatasetConfig], seed: int) -> Buckets:
    """Return the datasets of `train` sorted into data.buckets, or in one bucket if there are none.

    Raises:
        DataError: as `load_datasets` does.
        ConfigError: as `load_datasets` does; or if a step has no bucket, or a bucket has a weight and no video.
    """
    datasets = load_datasets(data, train)
    if not data.buckets:
        return Buckets(datasets, (Bucket(data, datasets),), Mixture([[(0, 1.0)]], [""], 1, seed, "buckets"))

    # Which bucket each video belongs to, and which heights and widths suit each image, dataset by dataset.
    shapes = list(dict.fromkeys(size.shape for size in data.buckets))
    homes = [_homes(dataset.index.videos, data) for dataset in datasets]
    suited = [_suited(dataset.index.images, shapes, data.crop) for dataset in datasets]
    bare = {shape for number, shape in enumerate(shapes) if not any(images[number].any() for images in suited)}

    # The part of every dataset that belongs to each bucket.
    divided: list[tuple[WeightedDataset, ...]] = []
    for number, size in enumerate(data.buckets):
        parts = []
        for dataset, home, images in zip(datasets, homes, suited, strict=True):
            joining = np.ones(images.shape[1], bool) if size.shape in bare else images[shapes.index(size.shape)]
            parts.append(_part(dataset, home == number, joining))
        divided.append(tuple(parts))

    # The bucket of each step: by the weights of the configuration, or by those that leave the datasets theirs.
    weights = [size.weight or _natural(of_bucket) for size, of_bucket in zip(data.buckets, divided, strict=True)]
    _check(data, divided, weights)
    steps = Mixture(weights, [size.name for size in data.buckets], 1, seed, "buckets")

    buckets = []
    for number, (size, of_bucket) in enumerate(zip(data.buckets, divided, strict=True)):
        same_shape = tuple(i for i, other in enumerate(data.buckets) if other.shape == size.shape)
        step_count = StepCount(steps, (number,), f" in bucket {size.name}")
        image_step_count = StepCount(steps, same_shape, f" in bucket {size.name}")
        buckets.append(Bucket(data.of_size(size), of_bucket, step_count, image_step_count, size.shape in bare))
    return Buckets(datasets, tuple(buckets), steps)


def scale_and_cut(
    widths: np.ndarray, heights: np.ndarray, height: int, width: int, crop: Crop
) -> tuple[np.ndarray, np.ndarray]:
    """Return what becomes of sources when height x width is cut out of them, as `clips.fit` does it.

    Args:
        widths: of the sources, in pixels, float64 (n,).
        heights: of the sources, in pixels, float64 (n,).
        height: of the cut, in pixels.
        width: of the cut, in pixels.
        crop: how it is cut (see `clips.cut_scale`).

    Returns:
        The factor by which each source is scaled, and the share of its pixels that is cut away, in [0, 1): float64
        (n,) each.
    """
    scale = np.maximum(height / heights, width / widths)
    if crop == "patch":
        scale = np.maximum(1.0, scale)
    return scale, 1 - height * width / (scale**2 * heights * widths)


def suitable_sizes(
    widths: np.ndarray, heights: np.ndarray, enough: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop
) -> tuple[np.ndarray, np.ndarray]:
    """Return which sizes suit each source by the rules 1 to 3 of this module.

    Args:
        widths: of the sources, in pixels, float64 (n,).
        heights: of the sources, in pixels, float64 (n,).
        enough: whether the source is long enough for a clip of the size, bool (sizes, n); true for one size at least.
        sizes: to choose among.
        crop: how frames are cut.

    Returns:
        Which sizes suit, bool (sizes, n), and the share of the picture that they cut away, float64 (sizes, n), which is
        infinite for those that do not suit.
    """
    fitted = [scale_and_cut(widths, heights, size.height, size.width, crop) for size in sizes]
    scale = np.stack([scale for scale, _ in fitted])
    cut = np.stack([cut for _, cut in fitted])
    enlarging = np.where(enough, np.maximum(1.0, scale), np.inf)
    cut = np.where(enlarging <= (1 + ALIKE) * enlarging.min(0), cut, np.inf)
    suits = cut <= ALIKE + cut.min(0)
    return suits, np.where(suits, cut, np.inf)


def best_sizes(
    widths: np.ndarray, heights: np.ndarray, enough: np.ndarray, sizes: Sequence[BucketConfig], crop: Crop
) -> np.ndarray:
    """Return the number of the size that each source goes to by the rules 1 to 4 of this module: int64 (n,).

    The arguments are those of `suitable_sizes`.
    """
    suits, cut = suitable_sizes(widths, heights, enough, sizes, crop)
    pixels = suits * np.array([[size.num_frames * size.height * size.width] for size in sizes])
    return np.where(pixels == pixels.max(0), cut, np.inf).argmin(0)


def source_sizes(samples: Index) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the widths and heights of samples in pixels, chunk by chunk: the slice, and float64 (n,) each."""
    all_widths, all_heights = samples.column("width"), samples.column("height")
    for chunk in chunks(len(samples)):
        yield chunk, all_widths[chunk].astype(np.float64), all_heights[chunk].astype(np.float64)


def _homes(videos: Index, data: DataConfig) -> np.ndarray:
    """Return the number of the bucket that each video belongs to: uint16 (n,)."""
    counts = [bucket.num_frames for bucket in data.buckets]
    enough = long_enough(videos, data, counts)
    # Every video that `load_datasets` has kept is long enough for the shortest clips, or has a variable rate: those may
    # be tried, and have a spare if they are too short.
    enough[np.array(counts) == min(counts)] = True
    homes = np.empty(len(videos), np.uint16)
    for chunk, widths, heights in source_sizes(videos):
        homes[chunk] = best_sizes(widths, heights, enough[:, chunk], data.buckets, data.crop)
    return homes


def _suited(images: Index, shapes: Sequence[tuple[int, int]], crop: Crop) -> np.ndarray:
    """Return which of `shapes`, each a height and a width, suit each image: bool (shapes, n)."""
    sizes = [BucketConfig(num_frames=1, height=height, width=width) for height, width in shapes]
    suited = np.empty((len(sizes), len(images)), bool)
    for chunk, widths, heights in source_sizes(images):
        enough = np.ones((len(sizes), len(widths)), bool)
        suited[:, chunk], _ = suitable_sizes(widths, heights, enough, sizes, crop)
    return suited


def _part(dataset: WeightedDataset, videos: np.ndarray, images: np.ndarray) -> WeightedDataset:
    """Return the part of a dataset that belongs to a bucket: the masks bool (n,) pick its videos and images."""
    return replace(
        dataset,
        index=dataset.index.where(np.concatenate([videos, images])),
        weight=_scaled(dataset.weight, videos),
        image_weight=_scaled(dataset.image_weight, images),
    )


def _scaled(knots: Knots, chosen: np.ndarray) -> Knots:
    """Return a weight times the share of true values in the mask `chosen`."""
    share = float(np.count_nonzero(chosen)) / max(1, len(chosen))
    return tuple((step, weight * share) for step, weight in knots)


def _natural(parts: Iterable[WeightedDataset]) -> Knots:
    """Return the default weight of a bucket: the sum of the weights of its parts of the datasets.

    The parts' weights are the datasets' times their shares of samples, so over all buckets every dataset keeps its
    weight and its samples come equally often.
    """
    weights = [part.weight for part in parts if part.index.videos]
    steps = sorted({0, *(step for knots in weights for step, _ in knots)})
    return tuple((step, float(sum(weight_at(knots, step) for knots in weights))) for step in steps)


def _check(data: DataConfig, divided: Sequence[Sequence[WeightedDataset]], weights: Sequence[Knots]) -> None:
    """Raise ConfigError if a step has no bucket, or a bucket has a weight and nothing to show.

    Args:
        data: of the run.
        divided: for each bucket, its parts of the datasets.
        weights: of the buckets.
    """
    for step in sorted({0, *(step for knots in weights for step, _ in knots)}):
        if not any(weight_at(knots, step) for knots in weights):
            whose = "data.buckets: at step {} the weights of all buckets"
            if not data.buckets[0].weight:
                whose = "data.train: at step {} the weights of all datasets with videos"
            raise ConfigError(f"{whose.format(step)} are 0: give one of them a weight there")
    for bucket, parts, knots in zip(data.buckets, divided, weights, strict=True):
        videos = sum(len(part.index.videos) for part in parts)
        log.info("data: bucket %s: %d videos", bucket.name, videos)
        if any(weight for _, weight in knots) and not videos and data.moving_images < 1:
            raise ConfigError(f"data.buckets: {bucket.name} has a weight, but no video belongs there: leave it out")
