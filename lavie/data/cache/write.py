"""The writing of entries: shards of them, and afterwards the lookups, which tell where each entry lies."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from .entry import KINDS, TENSORS, entry_digest, tensor_bytes
from .layout import shard_names, write_file
from .lookup import Lookup


def write_shard(folder: Path, kind: str, keys: np.ndarray, entries: Mapping[str, Tensor]) -> None:
    """Write n entries as a shard, whole or not at all.

    Args:
        folder: the folder of a size.
        kind: one of KINDS.
        keys: uint8 (n, 16), the keys of the entries. They decide the name of the file.
        entries: mean (n, F, C, h, w), std of the same shape or absent, and text (n, 1, L, D); on the CPU, one dtype.
    """
    names = [name for name in TENSORS if name in entries]
    digests = []
    for i, key in enumerate(keys):
        digests.append(entry_digest(key.tobytes(), [tensor_bytes(entries[name][i]) for name in names]))
    tensors = {name: entries[name].contiguous() for name in names}
    tensors["key"] = torch.from_numpy(keys)
    tensors["sha256"] = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)
    shard_hash = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    write_file(folder / f"{kind}-{shard_hash}.safetensors", save_tensors(tensors))


def write_lookups(folder: Path) -> None:
    """Write the lookup of every kind from the shards in a size's folder.

    Several ranks may do so at the same time: each repeats it until no shard has come meanwhile, so that the rank which
    ends last has written all shards down.
    """
    for kind in KINDS:
        while True:
            lookup = Lookup.scan(folder, kind)
            lookup.save(folder, kind)
            if lookup.shards == shard_names(folder, kind):
                break
