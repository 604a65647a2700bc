"""The lookup of a cache: in which shard, and in which row of it, an entry lies."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_arrays

from ...errors import DataError
from ..shards.index import Index
from .entry import entry_keys
from .layout import DELETE, shard_names, write_file
from .tensor_file import TensorFile


class Lookup:
    """The places of all n entries of one kind and size, sorted by their keys.

    Attributes:
        shards: the names of the files that the entries lie in.
    """

    def __init__(self, keys: np.ndarray, shard_numbers: np.ndarray, rows: np.ndarray, shards: list[str]) -> None:
        """Take the columns of a lookup.

        Args:
            keys: bytes (n,), ascending.
            shard_numbers: uint32 (n,): the shard of each entry, by its number in `shards`.
            rows: uint32 (n,): the row of each entry in its shard.
            shards: names of files.
        """
        self._keys, self._shard_numbers, self._rows, self.shards = keys, shard_numbers, rows, shards

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def scan(cls, folder: Path, kind: str) -> "Lookup":
        """Return the lookup of all shards of one kind that lie in a folder. Raises DataError if one is damaged."""
        shards = shard_names(folder, kind)
        columns = [TensorFile(folder / name, DELETE).read_tensor("key").numpy() for name in shards]
        counts = [len(column) for column in columns]

        # The empty arrays stand for a folder without shards, which concatenate would refuse.
        keys = _as_bytes(np.concatenate([np.empty((0, 16), np.uint8), *columns]))
        shard_numbers = np.repeat(np.arange(len(shards), dtype=np.uint32), counts)
        rows = np.concatenate([np.empty(0, np.uint32), *(np.arange(count, dtype=np.uint32) for count in counts)])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], shard_numbers[order], rows[order], shards)

    @classmethod
    def load(cls, folder: Path, kind: str) -> "Lookup":
        """Return the lookup that `save` wrote into a folder, memory-mapped.

        Raises:
            DataError: the lookup cannot be read, or one of its shards is gone.
        """
        remedy = "Run `lavie data cache` again: it encodes what is missing and writes the lookup anew"
        file = TensorFile(folder / f"{kind}.lookup", remedy)
        shards = json.loads(file.metadata["shards"])
        if lost_shards := sorted(set(shards) - set(shard_names(folder, kind))):
            raise DataError(
                f"{file.path}: {len(lost_shards)} of its shards are gone (first: {lost_shards[0]}). {remedy}"
            )
        return cls(_as_bytes(file.map_array("key")), file.map_array("shard"), file.map_array("row"), shards)

    def save(self, folder: Path, kind: str) -> None:
        """Write the lookup of one kind into a folder, in place of an earlier one."""
        key = self._keys.view(np.uint8).reshape(-1, 16)
        arrays = {"key": key, "shard": self._shard_numbers, "row": self._rows}
        write_file(folder / f"{kind}.lookup", save_arrays(arrays, {"shards": json.dumps(self.shards)}))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions in this lookup of entries, for `locate`: int64 (m,); -1 for those that it lacks.

        Args:
            keys: uint8 (m, 16), in any order.
        """
        wanted = _as_bytes(keys)
        if not len(self):
            return np.full(len(wanted), -1)
        positions = np.minimum(np.searchsorted(self._keys, wanted), len(self) - 1)
        return np.where(self._keys[positions] == wanted, positions, -1)

    def locate(self, position: int) -> tuple[str, int]:
        """Return the name of the shard, and the row in it, of the entry at a position that `find` gave."""
        return self.shards[self._shard_numbers[position]], int(self._rows[position])

    def absent(self, index: Index, cuts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the entries of an index that this lookup lacks, chunk by chunk: numbers int64 (m,), keys uint8 (m, 16).

        The number of an entry is cuts * (the position of its sample in the index) + (the number of its cut).
        """
        first = 0
        for media, captions in index.hashes():
            keys = np.stack([entry_keys(media, captions, cut) for cut in range(cuts)], axis=1).reshape(-1, 16)
            missing = np.flatnonzero(self.find(keys) < 0)
            yield first + missing, keys[missing]
            first += len(keys)


def _as_bytes(keys: np.ndarray) -> np.ndarray:
    """View keys uint8 (n, 16) as bytes (n,), each of which compares and sorts as a whole."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)
