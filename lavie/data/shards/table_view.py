"""Some rows of a table: all videos or all images, or a selection of these."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .table import Table

KEYS = 1 << 16
"""Keys that are read at a time."""
BLOCK_BYTES = 64
"""Bytes of a selection's bits for each entry of its running count."""


class Selection:
    """Some of n rows, in order: one bit for each row, and the i-th selected row found at once."""

    def __init__(self, mask: np.ndarray) -> None:
        """Take a mask, bool (n,): true for the rows that are selected."""
        self._rows = len(mask)
        self._bits = np.packbits(mask)
        starts = np.arange(0, len(mask), 8 * BLOCK_BYTES)
        counts = np.add.reduceat(mask, starts, dtype=np.int64) if len(mask) else mask
        self._selected_before = np.append(np.int64(0), counts.cumsum())

    def __len__(self) -> int:
        return int(self._selected_before[-1])

    @property
    def mask(self) -> np.ndarray:
        """The mask that the selection was made from, bool (n,)."""
        return np.unpackbits(self._bits, count=self._rows).view(bool)

    def __getitem__(self, i: int) -> int:
        """Return the i-th selected row, 0 <= i < len."""
        block = int(np.searchsorted(self._selected_before, i, side="right")) - 1
        bits = np.unpackbits(self._bits[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
        return block * BLOCK_BYTES * 8 + int(np.flatnonzero(bits)[i - self._selected_before[block]])


class TableView:
    """The rows of one kind in a table, or a selection of them. They count from 0 here."""

    def __init__(self, table: Table, kind: str, selection: Selection | None = None) -> None:
        """Take a table, the kind ("video" or "image"), and which rows of this kind are meant; None: all."""
        self.table, self.kind, self.selection = table, kind, selection
        self._first = 0 if kind == "video" else table.videos
        self._count = table.videos if kind == "video" else table.images

    def __len__(self) -> int:
        return self._count if self.selection is None else len(self.selection)

    def row(self, i: int) -> dict[str, Any]:
        """Return the fields of the view's i-th row, as `Table.row` does."""
        return self.table.row(self._first + (i if self.selection is None else self.selection[i]))

    def column(self, name: str) -> np.ndarray:
        """Return one of COLUMNS for the rows of the view, as `Table.column` does."""
        values = self.table.column(name)[self._first : self._first + self._count]
        return values if self.selection is None else values[self.selection.mask]

    def keys(self) -> Iterator[str]:
        """Yield the keys of the rows of the view."""
        mask = None if self.selection is None else self.selection.mask
        for start in range(0, self._count, KEYS):
            keys = self.table.keys(self._first + start, min(KEYS, self._count - start))
            yield from keys if mask is None else (key for i, key in enumerate(keys, start) if mask[i])

    def hashes(self, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield what `Table.hashes` returns for the rows of the view, for at most `chunk` rows at a time."""
        mask = None if self.selection is None else self.selection.mask
        for start in range(0, self._count, chunk):
            end = min(start + chunk, self._count)
            media, captions = self.table.hashes(self._first + start, end - start)
            yield (media, captions) if mask is None else (media[mask[start:end]], captions[mask[start:end]])

    def where(self, mask: np.ndarray) -> "TableView":
        """Return the rows of the view for which `mask`, bool (len,), is true."""
        if self.selection is not None:
            selected = self.selection.mask
            selected[selected] = mask
            mask = selected
        return TableView(self.table, self.kind, Selection(mask))
