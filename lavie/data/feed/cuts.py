"""The fixed cuts of a dataset's samples, one after another: what a cache has entries of."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch

from ...config.data import DataConfig
from ...errors import DataError
from ..cache.entry import KINDS
from ..order.datasets import WeightedDataset
from ..shards.index import Index
from ..shards.index_file import Sample
from .rows import Announce, ClipDataset, Row, place


def cached_samples(pools: Sequence[WeightedDataset], data: DataConfig) -> dict[str, list[Index]]:
    """The samples that a run can take, by the kind of their entries; datasets whose weight is always 0 give none."""
    samples: dict[str, list[Index]] = {kind: [] for kind in KINDS}
    for pool in pools:
        if any(weight for _, weight in pool.weight):
            samples["clips"].append(pool.index.videos)
        if data.num_images and any(weight for _, weight in pool.image_weight):
            samples["images"].append(pool.index.images)
    return samples


class CutDataset(ClipDataset):
    """Maps the number of an entry to a Row of one clip or one image: data.cuts cuts of each sample, in their order.

    A sample that cannot be read gives a row without pixels, and says why in `dropped`.
    """

    def __init__(self, indices: Sequence[Index], data: DataConfig) -> None:
        super().__init__((), data.model_copy(update={"verify": "always"}), seed=0)
        self._indices, self._ends = indices, list(accumulate(map(len, indices)))

    def sample(self, number: int) -> Sample:
        """The sample that an entry is of."""
        assert self._data.cuts
        i = number // self._data.cuts
        index = bisect_right(self._ends, i)
        return self._indices[index][i - (self._ends[index - 1] if index else 0)]

    def row(self, number: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        sample = self.sample(number)
        row = Row(captions=[sample.caption], keys=[sample.key], position=number, dropped=[])
        load: Callable = self._clip if sample.kind == "video" else self._image
        try:
            if reason := (unreadable or {}).get(place(sample)):
                raise DataError(f"{place(sample)}: {reason}")
            if announce:
                announce(place(sample))
            row["pixels"] = torch.from_numpy(load(sample, number))
        except DataError as error:
            row["dropped"].append({"key": sample.key, "reason": str(error), "position": number})
        return row

    def _cut(self, sample: Sample, at: int) -> int:
        assert self._data.cuts
        return at % self._data.cuts
