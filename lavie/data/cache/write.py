"""Writing a cache: shards of entries, their lookups, the description and the list of failures."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...errors import DataError
from .layout import FORMAT, entry_digest, read_description, require_same, tensor_bytes, write_file
from .lookup import KINDS, Lookup, shard_names


def write_shard(folder: Path, kind: str, keys: np.ndarray, entries: Mapping[str, Tensor]) -> None:
    """Write a shard: keys uint8 (n, 16); entries mean (n, F, C, h, w), std alike or absent, text (n, 1, L, D)."""
    names = [name for name in ("mean", "std", "text") if name in entries]
    digests = [
        entry_digest(key.tobytes(), [tensor_bytes(entries[name][i]) for name in names]) for i, key in enumerate(keys)
    ]
    tensors = {name: entries[name].contiguous() for name in names}
    tensors["key"] = torch.from_numpy(keys)
    tensors["sha256"] = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
    name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    write_file(folder / f"{kind}-{name}.safetensors", save_tensors(tensors))


def write_lookups(folder: Path) -> None:
    """Write the lookup of every kind. Several ranks may do so at the same time: the last one knows all shards."""
    for kind in KINDS:
        while True:
            lookup = Lookup.scan(folder, kind)
            lookup.save(folder, kind)
            if lookup.shards == shard_names(folder, kind):  # else a rank that finished meanwhile may be overwritten
                break


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
        "empty_sha256": hashlib.sha256(tensor_bytes(empty)).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    there = read_description(folder)
    if there is None:
        write_file(folder / "empty.safetensors", save_tensors({"text": empty.contiguous()}))
        write_file(folder / "cache.json", json.dumps(description, indent=2).encode())
        return
    require_same(there["made"], made, f"OUT {folder}")
    for field, flag in (("dtype", "--dtype"), ("encoded_in", "mixed_precision")):
        if there[field] != description[field]:
            raise DataError(
                f"OUT {folder}: {field} is {there[field]}, this call has {description[field]}: change {flag}, or name "
                "a new folder"
            )


def write_failed(folder: Path, rank: int, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write down the entries of one rank that could not be decoded: entry (its key, in hex), key, cut and reason."""
    path = folder / f"failed-rank{rank}.jsonl"
    if text := "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines):
        write_file(path, text.encode())
    else:
        path.unlink(missing_ok=True)
