"""The shards of a cache are plain safetensors files."""

import hashlib

from safetensors.torch import load_file

from lavie.data.cache.layout import shard_names
from tests.data.cache.entries import ROW_SHAPES


def test_shards_are_plain_safetensors(filled):
    folder, _, clips, _ = filled
    shards = [load_file(folder / name) for name in shard_names(folder, "clips")]
    assert {name: tuple(t.shape[1:]) for name, t in shards[0].items()} == ROW_SHAPES | {"key": (16,), "sha256": (32,)}
    for shard in shards:
        key = shard["key"][3].numpy().tobytes()
        parts = [shard[name][3].numpy().tobytes() for name in ("mean", "std", "text")]
        assert hashlib.sha256(key + b"".join(parts)).digest() == shard["sha256"][3].numpy().tobytes()
    assert sum(len(shard["key"]) for shard in shards) == len(clips["mean"])
