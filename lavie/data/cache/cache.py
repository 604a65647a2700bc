"""A cache: what the frozen encoders say of a dataset, computed once, in files that training reads entry by entry.

    OUT/16x320x512/                      frames, height and width of the clips
        cache.json                       what the entries were made with, their dtype and shapes
        empty.safetensors                text (1, L, D): the features of the empty caption
        clips-<hash>.safetensors         mean, std (n, F, C, h, w), text (n, 1, L, D), key (n, 16), sha256 (n, 32)
        images-<hash>.safetensors        the same of images, F = 1
        clips.lookup, images.lookup      the shard and the row of every entry, sorted by key (safetensors)
        failed-rank<r>.jsonl             entries that could not be decoded

An entry is one cut of one sample. Its key depends on the bytes of the media, on the caption and on the number of the
cut, so that the entry of a sample that has changed is not found. Mean and std are those of the autoencoder's posterior,
scaled; std is left out where the latents are certain. A shard is written whole or not at all, under a name that its
keys decide: ranks need not agree on names, and a shard that is written again replaces itself.
"""

import hashlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...config.data import DataConfig
from ...errors import DataError
from ..shards.index import Index, Sample
from .layout import DELETE, STORED, entry_digest, read_description, read_failed, require_same, size_folder, tensor_bytes
from .lookup import KINDS, Lookup, entry_key, kind_of
from .tensor_file import TensorFile

log = logging.getLogger("lavie")

MAX_OPEN = 64
"""Shards that a process holds open."""


class Cache:
    """The entries of one size of clips. Raises DataError if there are none, or if they are not `made` as wanted.

    made: what entries depend on, each under the name of the key or file that decides it.
    """

    def __init__(self, root: str | Path, data: DataConfig, made: Mapping[str, Any]) -> None:
        self._arguments = (root, data, made)
        self.folder = size_folder(root, data)
        description = read_description(self.folder)
        if description is None:
            there = ", ".join(sorted(path.parent.name for path in Path(root).glob("*/cache.json"))) or "none at all"
            raise DataError(
                f"data.cache {root}: no entries of {self.folder.name} (data.num_frames, height, width), but {there}. "
                f"`lavie data cache CONFIG.yaml {root}` makes them"
            )
        require_same(description["made"], made, f"data.cache {self.folder}")
        self._lookups = {kind: Lookup.load(self.folder, kind) for kind in KINDS}
        self._failed = {line["entry"]: line["reason"] for line in read_failed(self.folder)}
        self.empty_text = TensorFile(self.folder / "empty.safetensors", DELETE).whole("text")[0]
        """(L, D): the features of the empty caption."""
        if hashlib.sha256(tensor_bytes(self.empty_text)).hexdigest() != description["empty_sha256"]:
            raise DataError(f"{self.folder / 'empty.safetensors'}: damaged. Make the cache again in a new folder")
        frame = int(np.prod(description["latents"])) * (1 + description["std"])
        itemsize = STORED[description["dtype"]].itemsize
        text = self.empty_text.numel()
        self.row_bytes = itemsize * (data.num_frames * frame + text + data.num_images * (frame + text))
        """Of a clip's entry and those of the images joined to it."""

    def __reduce__(self) -> tuple:
        return Cache, self._arguments

    def require(self, samples: Mapping[str, list[Index]], data: DataConfig) -> None:
        """Check that every cut of these samples, by kind, is here or is known to be undecodable: the latter are logged.

        Raises DataError that counts and names those that are not.
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
            names = sorted({line["key"] for line in read_failed(self.folder)})
            log.warning(
                "data.cache %s: %d entries could not be decoded when it was made; spares take their places (first: %s)",
                *(self.folder, failed, names[0]),
            )

    def read(self, sample: Sample, cut: int, *, verify: bool = True) -> dict[str, Tensor]:
        """The entry of a cut: mean and (or not) std (F, C, h, w), text (1, L, D), in the cache's dtype.

        Raises DataError if it is not here, or damaged.
        """
        kind, key = kind_of(sample), entry_key(sample, cut)
        place = int(self._lookups[kind].find(np.frombuffer(key, np.uint8)[None])[0])
        if place < 0:
            reason = self._failed.get(key.hex(), "never encoded, or changed since")
            raise DataError(f"cut {cut} is not in data.cache {self.folder}: {reason}")
        name, row = self._lookups[kind].at(place)
        try:
            return _read_entry(self.folder / name, row, key, verify)
        except DataError:
            _opened.cache_clear()  # a shard that is replaced by a whole one is found by its path again
            raise


def _read_entry(path: Path, row: int, key: bytes, verify: bool) -> dict[str, Tensor]:
    file = _opened(path)
    if row >= file.rows or file.row("key", row) != key:
        raise DataError(
            f"{path}, row {row}: holds another entry than the lookup says. `lavie data cache` writes it anew"
        )
    names = [name for name in ("mean", "std", "text") if name in file.shapes]
    data = {name: file.row(name, row) for name in names}
    if verify and entry_digest(key, data.values()) != file.row("sha256", row):
        raise DataError(f"{path}, row {row}: the SHA-256 differs from the one written. {DELETE}")
    return {name: file.tensor(name, bytearray(data[name]), file.shapes[name]) for name in names}


@lru_cache(maxsize=MAX_OPEN)
def _opened(path: Path) -> TensorFile:
    return TensorFile(path, DELETE)
