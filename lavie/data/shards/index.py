"""The index of a dataset: all its samples, found in its shards and loaded for training.

A dataset is a folder of shards with an index beside each (`index_file`), or a folder of indices whose shards lie
elsewhere. Training reads these indices once, into a table (`compile`), and afterwards single members by their offsets
(`member`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

import numpy as np

from .compile import compile_samples, open_table
from .index_file import Sample
from .table import COLUMNS, ROW_DTYPE, Table
from .table_view import TableView


class Index(Sequence[Sample]):
    """The samples of one or more datasets, or a selection of them.

    Videos come first, then images; the samples of a kind have the order of the datasets, then of the names of their
    shards, then of their places in the shard. A sample is read when it is asked for: memory does not grow with their
    number, but for one bit for each sample that a selection was made from.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Make an index of some samples, in memory."""
        self._use(_views([compile_samples(samples)]))

    @classmethod
    def of_tables(cls, tables: Iterable[Table]) -> "Index":
        """Return the index of all samples of some tables."""
        return cls._of_views(_views(tables))

    @classmethod
    def _of_views(cls, views: Sequence[TableView]) -> "Index":
        """Return the index of the samples in some views, without compiling a table."""
        index = cls.__new__(cls)
        index._use(views)
        return index

    def _use(self, views: Sequence[TableView]) -> None:
        """Take the views that the samples are read from."""
        rank = {"video": 0, "image": 1}
        self._views = tuple(sorted((view for view in views if len(view)), key=lambda view: rank[view.kind]))
        self._ends = list(accumulate(map(len, self._views)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, i: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(i, slice):
            return tuple(self[j] for j in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        i %= len(self)
        number = bisect_right(self._ends, i)
        return Sample(**self._views[number].row(int(i) - (self._ends[number - 1] if number else 0)))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @property
    def videos(self) -> "Index":
        """The samples of kind "video"."""
        return Index._of_views([view for view in self._views if view.kind == "video"])

    @property
    def images(self) -> "Index":
        """The samples of kind "image"."""
        return Index._of_views([view for view in self._views if view.kind == "image"])

    @property
    def shards(self) -> tuple[str, ...]:
        """The paths or URLs of the datasets' shards; the column `shard` counts in them."""
        return tuple(dict.fromkeys(name for view in self._views for name in view.table.shards))

    @property
    def codecs(self) -> tuple[str, ...]:
        """The names of the codecs; the column `codec` counts in them."""
        return tuple(dict.fromkeys(name for view in self._views for name in view.table.codecs))

    def column(self, name: str) -> np.ndarray:
        """Return one of COLUMNS, a field of all samples in order: (len,), read only.

        fps is NaN for images; shard and codec are numbers in `shards` and `codecs`. The column is memory-mapped, not
        copied, where the index is one kind of one dataset without a selection.
        """
        if name not in COLUMNS:
            raise ValueError(f"column {name!r}: wanted one of {', '.join(COLUMNS)}")
        columns = []
        for view in self._views:
            values = view.column(name)
            # Each table counts shards and codecs for itself; several tables need numbers that hold for all.
            if name in ("shard", "codec") and len(self._views) > 1:
                number_of = {text: number for number, text in enumerate(getattr(self, f"{name}s"))}
                values = np.array([number_of[text] for text in getattr(view.table, f"{name}s")], np.uint32)[values]
            columns.append(values)
        if not columns:
            return np.empty(0, ROW_DTYPE[name])
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def sample_keys(self) -> Iterator[str]:
        """Yield the keys of the samples, in order, without reading the rest of them."""
        for view in self._views:
            yield from view.keys()

    def hashes(self, chunk: int = 1 << 16) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the SHA-256 of the media and of the captions, for at most `chunk` samples at a time, in order.

        Both are uint8 (n, 32), n <= chunk.
        """
        for view in self._views:
            yield from view.hashes(chunk)

    def where(self, mask: np.ndarray) -> "Index":
        """Return the samples for which `mask`, bool (len,), is true, in order."""
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ValueError(f"mask {mask.dtype} {mask.shape}: wanted bool ({len(self)},)")
        masks = np.split(mask, self._ends[:-1])
        return Index._of_views([view.where(part) for view, part in zip(self._views, masks, strict=False)])


def load_index(paths: Sequence[str], remote: bool = False) -> Index:
    """Return the index of some datasets.

    Args:
        paths: folders of shards or of indices, single tars, or URLs of these.
        remote: whether URLs may be read.

    Raises:
        DataError: a dataset is missing, does not fit its indices, or is a URL where none may be read.
    """
    return Index.of_tables([open_table(path, remote) for path in paths])


def _views(tables: Iterable[Table]) -> list[TableView]:
    """Return a view of each kind of each table."""
    return [TableView(table, kind) for table in tables for kind in ("video", "image")]
