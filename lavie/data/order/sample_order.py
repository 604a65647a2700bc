"""The sample at every position of a run: a mixture picks the dataset, and its permutation the sample."""

from collections.abc import Sequence

from ..shards.index import Index
from ..shards.index_file import Sample
from .datasets import WeightedDataset
from .mixture import Knots, Mixture, StepCount
from .permutation import sample_at, spare_at


class SampleOrder:
    """An endless order of the videos, or of the images, of several datasets.

    1. The mixture gives each position to one dataset, and tells how often it took that dataset before: the place.
    2. The sample is the one at that place of the dataset's own permutations, which follow each other epoch by epoch.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[str, Index, Knots]],
        purpose: str,
        seed: int,
        per_step: int,
        step_count: StepCount | None = None,
    ) -> None:
        """Mix the datasets that have samples.

        Args:
            datasets: for each its name (empty for the only one), its samples of this kind, and their weight.
            purpose: what the order is for, as "videos". Orders of another purpose are drawn independently.
            seed: of the run.
            per_step: positions of one step, from 1.
            step_count: the steps whose positions are taken; None: all.
        """
        datasets = [dataset for dataset in datasets if dataset[1]]
        self.names = [name for name, _, _ in datasets]
        self.samples = [samples for _, samples, _ in datasets]
        weights = [weight for _, _, weight in datasets]
        self.mixture = Mixture(weights, self.names, per_step, seed, purpose, step_count) if datasets else None
        """None where no dataset has samples: then no position has one."""
        self._seed, self._purpose = seed, purpose

    def at(self, position: int, attempt: int = 0) -> Sample:
        """Return the sample at a position; at attempt 1, 2, ... a spare of the same dataset that stands in for it."""
        assert self.mixture is not None
        dataset, place = self.mixture.at(position)
        samples, name = self.samples[dataset], self.names[dataset]
        purpose = f"{self._purpose} of {name}" if name else self._purpose
        if attempt:
            return samples[spare_at(place, attempt, len(samples), self._seed, purpose)]
        return samples[sample_at(place, len(samples), self._seed, purpose)]


def video_order(
    datasets: Sequence[WeightedDataset], seed: int, global_batch: int, step_count: StepCount | None = None
) -> SampleOrder:
    """Return the order of the clips, `global_batch` to a step."""
    videos = [(dataset.name, dataset.index.videos, dataset.weight) for dataset in datasets]
    return SampleOrder(videos, "videos", seed, global_batch, step_count)


def image_order(
    datasets: Sequence[WeightedDataset],
    seed: int,
    per_step: int,
    purpose: str = "images",
    step_count: StepCount | None = None,
) -> SampleOrder:
    """Return the order of the images, `per_step` to a step, mixed by their own weights.

    purpose: "images" for those that join clips, "moving images" for those that are shown in place of one.
    """
    images = [(dataset.name, dataset.index.images, dataset.image_weight) for dataset in datasets]
    return SampleOrder(images, purpose, seed, per_step, step_count)
