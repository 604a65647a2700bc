"""The shards of a cache are plain safetensors files."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lavie.data.cache.layout import shard_names
from lavie.data.cache.write import write_shard
from tests.data.cache.entries import ROW_SHAPES, random_entries


def test_shards_are_plain_safetensors(filled):
    folder, _, clips, _ = filled
    shards = [load_file(folder / name) for name in shard_names(folder, "clips")]
    assert {name: tuple(t.shape[1:]) for name, t in shards[0].items()} == ROW_SHAPES | {"key": (16,), "sha256": (32,)}
    for shard in shards:
        key = shard["key"][3].numpy().tobytes()
        parts = [shard[name][3].numpy().tobytes() for name in ("mean", "std", "text")]
        assert hashlib.sha256(key + b"".join(parts)).digest() == shard["sha256"][3].numpy().tobytes()
    assert sum(len(shard["key"]) for shard in shards) == len(clips["mean"])


def test_entries_of_an_autoencoder_without_randomness_have_no_deviation(tmp_path):
    entries = random_entries(3)
    del entries["std"]
    keys = np.arange(48, dtype=np.uint8).reshape(3, 16)
    write_shard(tmp_path, "clips", keys, entries)
    (path,) = tmp_path.glob("clips-*.safetensors")
    shard = load_file(path)
    assert shard.keys() == {"mean", "text", "key", "sha256"} and torch.equal(shard["mean"], entries["mean"])
    whole = keys[1].tobytes() + b"".join(shard[name][1].numpy().tobytes() for name in ("mean", "text"))
    assert hashlib.sha256(whole).digest() == shard["sha256"][1].numpy().tobytes()


@pytest.mark.usefixtures("reversed_folders")
def test_shards_of_a_kind_come_by_name(tmp_path):
    for name in ("clips-1.safetensors", "clips-0.safetensors", "images-0.safetensors", "clips-2.partial"):
        (tmp_path / name).touch()
    assert shard_names(tmp_path, "clips") == ["clips-0.safetensors", "clips-1.safetensors"]
