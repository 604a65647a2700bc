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
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..config_data import DataConfig
from ..errors import DataError
from ..files import replacing
from .index import Index, Sample
from .tensor_file import TensorFile

log = logging.getLogger("lavie")

FORMAT = 1
KINDS = ("clips", "images")
STORED = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)}
"""The dtypes that entries can have."""
MAX_OPEN = 64
"""Shards that a process holds open."""
DELETE = "Delete it and run `lavie data cache` again: it encodes what is missing"


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
        _write(folder / f"{kind}.lookup", save_arrays(arrays, {"shards": json.dumps(self.shards)}))

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
        if hashlib.sha256(_bytes(self.empty_text)).hexdigest() != description["empty_sha256"]:
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
    if verify and _digest(key, data.values()) != file.row("sha256", row):
        raise DataError(f"{path}, row {row}: the SHA-256 differs from the one written. {DELETE}")
    return {name: file.tensor(name, bytearray(data[name]), file.shapes[name]) for name in names}


@lru_cache(maxsize=MAX_OPEN)
def _opened(path: Path) -> TensorFile:
    return TensorFile(path, DELETE)


def write_shard(folder: Path, kind: str, keys: np.ndarray, entries: Mapping[str, Tensor]) -> None:
    """Write a shard: keys uint8 (n, 16); entries mean (n, F, C, h, w), std alike or absent, text (n, 1, L, D)."""
    names = [name for name in ("mean", "std", "text") if name in entries]
    digests = [_digest(key.tobytes(), [_bytes(entries[name][i]) for name in names]) for i, key in enumerate(keys)]
    tensors = {name: entries[name].contiguous() for name in names}
    tensors["key"] = torch.from_numpy(keys)
    tensors["sha256"] = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
    name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    _write(folder / f"{kind}-{name}.safetensors", save_tensors(tensors))


def write_lookups(folder: Path) -> None:
    """Write the lookup of every kind. Several ranks may do so at the same time: the last one knows all shards."""
    for kind in KINDS:
        while True:
            lookup = Lookup.scan(folder, kind)
            lookup.save(folder, kind)
            if lookup.shards == shard_names(folder, kind):  # else a rank that finished meanwhile may be overwritten
                break


def shard_names(folder: Path, kind: str) -> list[str]:
    """The names of the shards of one kind, in order."""
    return sorted(path.name for path in folder.glob(f"{kind}-*.safetensors"))


def size_folder(root: str | Path, data: DataConfig) -> Path:
    """Where in a cache the entries of a configuration's size are."""
    return Path(root) / f"{data.num_frames}x{data.height}x{data.width}"


def describe(
    folder: Path, made: Mapping[str, Any], entry: Mapping[str, Tensor], empty: Tensor, encoded_in: str
) -> None:
    """Write what all entries have in common, or check it against what is there.

    made: as for Cache; entry: one of an image, in the dtype of all; empty: (1, L, D), the empty caption's features;
    encoded_in: the dtype of the encoders. Raises DataError, naming the fields that differ.
    """
    description = {
        "format": FORMAT,
        "made": dict(made),
        "dtype": str(empty.dtype).removeprefix("torch."),
        "encoded_in": encoded_in,
        "latents": list(entry["mean"].shape[1:]),
        "std": "std" in entry,
        "empty_sha256": hashlib.sha256(_bytes(empty)).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    there = read_description(folder)
    if there is None:
        _write(folder / "empty.safetensors", save_tensors({"text": empty.contiguous()}))
        _write(folder / "cache.json", json.dumps(description, indent=2).encode())
        return
    require_same(there["made"], made, f"OUT {folder}")
    for field, flag in (("dtype", "--dtype"), ("encoded_in", "mixed_precision")):
        if there[field] != description[field]:
            raise DataError(
                f"OUT {folder}: {field} is {there[field]}, this call has {description[field]}: change {flag}, or name "
                "a new folder"
            )


def read_description(folder: Path) -> dict[str, Any] | None:
    """What `describe` wrote; None if there is nothing. Raises DataError if it cannot be read."""
    path = folder / "cache.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, wanted {FORMAT}")
        if description["dtype"] not in STORED or not isinstance(description["made"], dict):
            raise ValueError(f"dtype {description['dtype']!r}, made {description['made']!r}")
        return description
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}. Make the cache again in a new folder") from None


def require_same(got: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise a DataError that names every field of `wanted` that differs in `got`."""
    wanted = json.loads(json.dumps(dict(wanted)))  # tuples become lists, as in the file
    differing = [name for name in {**wanted, **got} if got.get(name) != wanted.get(name)]
    if differing:
        fields = "; ".join(f"{name} is {got.get(name)!r}, wanted {wanted.get(name)!r}" for name in differing)
        raise DataError(
            f"{where}: made for something else: {fields}. Run `lavie data cache` again into a new folder, or change "
            "the config back"
        )


def write_failed(folder: Path, rank: int, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write down the entries of one rank that could not be decoded: entry (its key, in hex), key, cut and reason."""
    path = folder / f"failed-rank{rank}.jsonl"
    if text := "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines):
        _write(path, text.encode())
    else:
        path.unlink(missing_ok=True)


def read_failed(folder: Path) -> list[dict[str, Any]]:
    """The lines of all ranks. Raises DataError if one is damaged."""
    lines = []
    for path in sorted(folder.glob("failed-rank*.jsonl")):
        try:
            for text in path.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if not isinstance(line["entry"], str) or not isinstance(line["reason"], str):
                    raise ValueError(f"entry {line['entry']!r}, reason {line['reason']!r}: wanted text")
                lines.append(line)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. {DELETE}") from None
    return lines


def _as_bytes(keys: np.ndarray) -> np.ndarray:
    """uint8 (n, 16) -> bytes (n,), which compare as a whole."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _digest(key: bytes, parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(key)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from None
