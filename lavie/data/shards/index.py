"""The samples of a dataset, found in its shards and loaded for training.

A dataset is a folder of shards with an index beside each (`index_file`), or a folder of indices whose shards lie
elsewhere. Training reads the indices once, as a table (`compile`), and then single members by offset (`member`).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from .compile import compiled, in_memory
from .index_file import Sample
from .table import COLUMNS, ROW, Part


class Index(Sequence[Sample]):
    """All samples of a dataset: videos, then images, each by the order of the paths, shard name, and place in it.

    Samples are read when asked for; what is held in memory does not grow with their number, but for one bit a sample of
    a selection.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._set(in_memory(samples))

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Index":
        """The index of some parts of tables."""
        index = cls.__new__(cls)
        index._set(parts)
        return index

    def _set(self, parts: Sequence[Part]) -> None:
        order = {"video": 0, "image": 1}
        self._parts = tuple(sorted((p for p in parts if len(p)), key=lambda p: order[p.kind]))
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i):
        if isinstance(i, slice):
            return tuple(self[j] for j in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        i %= len(self)
        part = bisect_right(self._ends, i)
        return Sample(**self._parts[part].row(int(i) - (self._ends[part - 1] if part else 0)))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @property
    def videos(self) -> "Index":
        """Those of kind video."""
        return Index.of([p for p in self._parts if p.kind == "video"])

    @property
    def images(self) -> "Index":
        """Those of kind image."""
        return Index.of([p for p in self._parts if p.kind == "image"])

    @property
    def shards(self) -> tuple[str, ...]:
        """Paths of the tars."""
        return tuple(dict.fromkeys(name for p in self._parts for name in p.table.shards))

    @property
    def codecs(self) -> tuple[str, ...]:
        """Names of the codecs."""
        return tuple(dict.fromkeys(name for p in self._parts for name in p.table.codecs))

    def column(self, name: str) -> np.ndarray:
        """A field of all samples, one of COLUMNS, in order: (len,), read only.

        fps is NaN for images; shard and codec are numbers of `shards` and `codecs`. Memory-mapped, not copied, where
        the index is one kind of one dataset without a selection.
        """
        if name not in COLUMNS:
            raise ValueError(f"column {name!r}: wanted one of {', '.join(COLUMNS)}")
        columns = []
        for part in self._parts:
            values = part.column(name)
            if name in ("shard", "codec") and len(self._parts) > 1:
                mine, all_names = (getattr(owner, name + "s") for owner in (part.table, self))
                number = {n: i for i, n in enumerate(all_names)}
                values = np.array([number[n] for n in mine], np.uint32)[values]
            columns.append(values)
        if not columns:
            return np.empty(0, ROW[name])
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def hashes(self, chunk: int = 1 << 16) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """SHA-256 of the media and of the captions of all samples, in order: uint8 (n, 32) each, n <= chunk."""
        for part in self._parts:
            yield from part.hashes(chunk)

    def where(self, mask: np.ndarray) -> "Index":
        """The samples for which `mask`, bool (len,), is true, in order."""
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ValueError(f"mask {mask.dtype} {mask.shape}: wanted bool ({len(self)},)")
        starts = [0, *self._ends]
        return Index.of([p.where(mask[a:b]) for p, a, b in zip(self._parts, starts, self._ends, strict=False)])


def load_index(paths: Sequence[str], remote: bool = False) -> Index:
    """The index of folders of shards or of indices, or of single tars; with `remote`, of URLs of such too.

    Raises DataError if one is missing, does not fit its shard, or is no local path where those alone are allowed.
    """
    tables = [compiled(path, remote) for path in paths]
    return Index.of([Part(table, kind) for table in tables for kind in ("video", "image")])
