"""Where each entry of a cache lies: its key, its shard and its row there."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_arrays

from ...errors import DataError
from ..shards.index import Index, Sample
from .layout import DELETE, write_file
from .tensor_file import TensorFile

KINDS = ("clips", "images")


def kind_of(sample: Sample) -> str:
    """Which of KINDS holds the entries of a sample."""
    return "clips" if sample.kind == "video" else "images"


def entry_keys(media: np.ndarray, captions: np.ndarray, cut: int) -> np.ndarray:
    """The keys of one cut of some samples: uint8 (n, 16).

    media, captions: uint8 (n, 32), the SHA-256 of each. 128 bits of each, and of that of the cut's number, added
    without carry: as good as a hash of all three, and done for whole tables at once.
    """
    mark = np.frombuffer(hashlib.sha256(f"cut {cut}".encode()).digest(), np.uint8)
    return media[:, :16] ^ captions[:, :16] ^ mark[:16]


def entry_key(sample: Sample, cut: int) -> bytes:
    """The key of one cut of one sample."""
    media, caption = (np.frombuffer(bytes.fromhex(h), np.uint8) for h in (sample.sha256, sample.caption_sha256))
    return entry_keys(media[None], caption[None], cut).tobytes()


class Lookup:
    """Where the entries of one kind lie.

    keys: bytes (n,), ascending; shard: uint32 (n,), counting in `shards`, the names of the files; row: uint32 (n,).
    """

    def __init__(self, keys: np.ndarray, shard: np.ndarray, row: np.ndarray, shards: list[str]) -> None:
        self._keys, self._shard, self._row, self.shards = keys, shard, row, shards

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def scan(cls, folder: Path, kind: str) -> "Lookup":
        """Of all shards that lie in a folder. Raises DataError if one is damaged."""
        shards = shard_names(folder, kind)
        columns = [TensorFile(folder / name, DELETE).whole("key").numpy() for name in shards]
        keys = _as_bytes(np.concatenate([np.empty((0, 16), np.uint8), *columns]))
        shard = np.repeat(np.arange(len(shards), dtype=np.uint32), [len(c) for c in columns])
        row = np.concatenate([np.empty(0, np.uint32), *(np.arange(len(c), dtype=np.uint32) for c in columns)])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], shard[order], row[order], shards)

    @classmethod
    def load(cls, folder: Path, kind: str) -> "Lookup":
        """The one that `save` left there, memory-mapped. Raises DataError if one of its shards is gone."""
        remedy = "Run `lavie data cache` again: it encodes what is missing and writes the lookup anew"
        file = TensorFile(folder / f"{kind}.lookup", remedy)
        shards = json.loads(file.notes["shards"])
        if gone := sorted(set(shards) - set(shard_names(folder, kind))):
            raise DataError(f"{file.path}: {len(gone)} of its shards are gone (first: {gone[0]}). {remedy}")
        return cls(_as_bytes(file.mapped("key")), file.mapped("shard"), file.mapped("row"), shards)

    def save(self, folder: Path, kind: str) -> None:
        """Write it to its file."""
        key = self._keys.view(np.uint8).reshape(-1, 16)
        arrays = {"key": key, "shard": self._shard, "row": self._row}
        write_file(folder / f"{kind}.lookup", save_arrays(arrays, {"shards": json.dumps(self.shards)}))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Which entries have these keys, uint8 (m, 16): int64 (m,), -1 for those that are not there."""
        wanted = _as_bytes(keys)
        if not len(self):
            return np.full(len(wanted), -1)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self) - 1)
        return np.where(self._keys[places] == wanted, places, -1)

    def absent(self, index: Index, cuts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The entries of an index that are not there, some at a time: numbers int64 (m,), keys uint8 (m, 16).

        The number of an entry is cuts * sample + cut.
        """
        first = 0
        for media, captions in index.hashes():
            keys = np.stack([entry_keys(media, captions, cut) for cut in range(cuts)], axis=1).reshape(-1, 16)
            missing = np.flatnonzero(self.find(keys) < 0)
            yield first + missing, keys[missing]
            first += len(keys)

    def at(self, place: int) -> tuple[str, int]:
        """The name of the shard, and the row, of an entry that `find` gave."""
        return self.shards[self._shard[place]], int(self._row[place])


def shard_names(folder: Path, kind: str) -> list[str]:
    """The names of the shards of one kind, in order."""
    return sorted(path.name for path in folder.glob(f"{kind}-*.safetensors"))


def _as_bytes(keys: np.ndarray) -> np.ndarray:
    """uint8 (n, 16) -> bytes (n,), which compare as a whole."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)
