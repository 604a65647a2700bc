"""The cache of a run: checked to be complete and made as wanted, then read entry by entry.

The files of a cache are those of `layout`; `lavie data cache` writes them.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...config.data import DataConfig
from ...errors import DataError
from ..shards.index import Index
from ..shards.index_file import Sample
from .description import ENTRY_DTYPES, read_description, read_empty_text, require_same
from .entry import KINDS, TENSORS, entry_digest, entry_key, entry_kind
from .failures import read_failures
from .layout import DELETE, size_folder
from .lookup import Lookup
from .tensor_file import TensorFile

log = logging.getLogger("lavie")

MAX_OPEN = 64
"""How many shards of caches a process keeps open."""


class Cache:
    """The entries of one size of clips, for reading.

    It goes to another process as its arguments, and is opened there again.

    Attributes:
        folder: the folder of the size.
        empty_text: (L, D), the features of the empty caption.
        row_bytes: bytes of a clip's entry and of the entries of the data.num_images images joined to it.
    """

    def __init__(self, root: str | Path, data: DataConfig, made_with: Mapping[str, Any]) -> None:
        """Open a cache.

        Args:
            root: the cache, as in data.cache.
            data: the configuration of one size.
            made_with: what entries depend on beside sample and cut, each under the name of the key or file that
                decides it.

        Raises:
            DataError: the cache has no entries of this size, they were made with something else, or a file is damaged.
        """
        self._arguments = (root, data, made_with)
        self.folder = size_folder(root, data)
        description = read_description(self.folder)
        if description is None:
            sizes = ", ".join(sorted(path.parent.name for path in Path(root).glob("*/cache.json"))) or "none at all"
            raise DataError(
                f"data.cache {root}: no entries of {self.folder.name} (data.num_frames, height, width), but {sizes}. "
                f"`lavie data cache CONFIG.yaml {root}` makes them"
            )
        require_same(description["made"], made_with, f"data.cache {self.folder}")
        self._lookups = {kind: Lookup.load(self.folder, kind) for kind in KINDS}
        self._failed = {failure["entry"]: failure["reason"] for failure in read_failures(self.folder)}
        self.empty_text = read_empty_text(self.folder, description)

        # How much of the memory that workers share one row takes; std is as large as mean.
        latents = int(np.prod(description["latents"])) * (1 + description["std"])
        text = self.empty_text.numel()
        numbers = data.num_frames * latents + text + data.num_images * (latents + text)
        self.row_bytes = ENTRY_DTYPES[description["dtype"]].itemsize * numbers

    def __reduce__(self) -> tuple:
        return Cache, self._arguments

    def require(self, samples: Mapping[str, list[Index]], data: DataConfig) -> None:
        """Check that every cut of some samples is in the cache or is known to be undecodable; log the latter.

        Args:
            samples: the indices of the samples of each kind, as in KINDS.
            data: says how many cuts each sample has.

        Raises:
            DataError: entries are missing; the message counts them and names the first.
        """
        assert data.cuts
        cuts, missing, failed, first = data.cuts, 0, 0, ""
        for kind, indices in samples.items():
            for index in indices:
                for numbers, keys in self._lookups[kind].absent(index, cuts):
                    for number, key in zip(numbers.tolist(), keys, strict=True):
                        if key.tobytes().hex() in self._failed:
                            failed += 1
                        else:
                            first = first or f"{index[number // cuts].key}, cut {number % cuts}"
                            missing += 1

        if missing:
            total = cuts * sum(len(index) for indices in samples.values() for index in indices)
            raise DataError(
                f"data.cache {self.folder}: {missing} of {total} entries are missing (first: {first}): samples or "
                f"captions were added or have changed, data.cuts {cuts} is more than were made, or caching was cut "
                "short. Run `lavie data cache` again: it encodes what is missing"
            )
        if failed:
            names = sorted({failure["key"] for failure in read_failures(self.folder)})
            log.warning(
                "data.cache %s: %d entries could not be decoded when it was made; spares take their places (first: %s)",
                *(self.folder, failed, names[0]),
            )

    def read(self, sample: Sample, cut: int, *, verify: bool = True) -> dict[str, Tensor]:
        """Return the entry of one cut: mean (F, C, h, w), std of the same shape or absent, text (1, L, D).

        Args:
            sample: the sample, unchanged since its entries were made.
            cut: the number of the cut, from 0.
            verify: compare the entry with the SHA-256 that was written with it.

        Raises:
            DataError: the entry is not in the cache, or damaged.
        """
        kind, key = entry_kind(sample), entry_key(sample, cut)
        position = int(self._lookups[kind].find(np.frombuffer(key, np.uint8)[None])[0])
        if position < 0:
            reason = self._failed.get(key.hex(), "never encoded, or changed since")
            raise DataError(f"cut {cut} is not in data.cache {self.folder}: {reason}")
        name, row = self._lookups[kind].locate(position)
        try:
            return _read_entry(self.folder / name, row, key, verify)
        except DataError:
            _open_shard.cache_clear()  # a shard that is replaced by a whole one is found by its path again
            raise


def _read_entry(path: Path, row: int, key: bytes, verify: bool) -> dict[str, Tensor]:
    """Return the tensors of the entry in one row of a shard. Raises DataError if it has another key, or is damaged."""
    file = _open_shard(path)
    if row >= file.rows or file.read_row("key", row) != key:
        raise DataError(
            f"{path}, row {row}: holds another entry than the lookup says. `lavie data cache` writes it anew"
        )
    names = [name for name in TENSORS if name in file.row_shapes]
    data = {name: file.read_row(name, row) for name in names}
    if verify and entry_digest(key, data.values()) != file.read_row("sha256", row):
        raise DataError(f"{path}, row {row}: the SHA-256 differs from the one written. {DELETE}")
    return {name: file.as_tensor(name, bytearray(data[name]), file.row_shapes[name]) for name in names}


# Hidden state: the shards that this process has open, at most MAX_OPEN, the longest unused closed first. Emptied
# whenever an entry cannot be read.
@lru_cache(maxsize=MAX_OPEN)
def _open_shard(path: Path) -> TensorFile:
    """Open a shard, or return it if it is open."""
    return TensorFile(path, DELETE)
