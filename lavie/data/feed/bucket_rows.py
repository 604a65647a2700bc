"""The row at each global position of a run, which has the size of its step's bucket."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from ...errors import DataError
from ..cache.cache import Cache
from ..order.buckets import Buckets
from .rows import Announce, ClipDataset, Row


class BucketDataset(Dataset):
    """Maps a global position to its Row, which has the size of the step's bucket.

    caches: one for each bucket, by its name, if rows come from them. `options` go to ClipDataset.
    """

    def __init__(
        self,
        buckets: Buckets,
        seed: int,
        caches: Mapping[str, Cache] | None = None,
        *,
        global_batch: int,
        **options: Any,
    ) -> None:
        self._steps, self._global_batch = buckets.steps, global_batch
        self._each = []
        for each in buckets.all:
            own: dict[str, Any] = dict(
                step_counts=(each.step_count, each.image_step_count), cache=caches[each.name] if caches else None
            )
            self._each.append(ClipDataset(each.datasets, each.data, seed, global_batch=global_batch, **own, **options))

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
