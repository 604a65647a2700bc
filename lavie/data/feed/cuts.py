"""The fixed cuts of a dataset's samples, one after another: what a cache has entries of."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from ...config.data import DataConfig
from ..cache.entry import KINDS
from ..order.datasets import WeightedDataset
from ..shards.index import Index
from ..shards.index_file import Sample
from .rows import Announce, Row, RowReading
from .sample import PixelReader


def cached_samples(datasets: Sequence[WeightedDataset], data: DataConfig) -> dict[str, list[Index]]:
    """Return the samples that a run can take, by the kind of their entries, one of KINDS.

    A dataset whose weight is 0 at all steps gives none.
    """
    samples: dict[str, list[Index]] = {kind: [] for kind in KINDS}
    for dataset in datasets:
        if any(weight for _, weight in dataset.weight):
            samples["clips"].append(dataset.index.videos)
        if data.num_images and any(weight for _, weight in dataset.image_weight):
            samples["images"].append(dataset.index.images)
    return samples


class CutRows:
    """The fixed cuts of some samples as rows of one clip or one image, from the entry number 0 on.

    Entry data.cuts * i + c is cut c of sample i, the samples of all `indices` counted together. Hashes are always
    compared. A sample that cannot be read gives a row without pixels, and `dropped` says why: entries have no spares.
    """

    def __init__(self, indices: Sequence[Index], data: DataConfig) -> None:
        assert data.cuts
        self._indices, self._ends, self._cuts = indices, list(accumulate(map(len, indices))), data.cuts
        # A fixed cut is the same for all seeds.
        self._reader = PixelReader(data.model_copy(update={"verify": "always"}), seed=0)
        self.row_bytes = data.num_frames * data.height * data.width * 3

    def _sample(self, number: int) -> Sample:
        """Return the sample that an entry is of."""
        i = number // self._cuts
        index = bisect_right(self._ends, i)
        return self._indices[index][i - (self._ends[index - 1] if index else 0)]

    def row(self, number: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """See Rows.row; `number` is that of an entry. Never raises DataError."""
        sample = self._sample(number)
        reading = RowReading(number, unreadable or {}, announce)
        row = Row(captions=[sample.caption], keys=[sample.key], position=number, dropped=reading.dropped)
        if content := reading.read(self._reader, sample, number, number % self._cuts):
            row["pixels"] = content.tensors["pixels"]
        return row
