"""A filled cache."""

import pytest
import torch

from lavie.data.cache.description import write_description
from lavie.data.cache.lookup import Lookup
from lavie.data.cache.write import write_lookups, write_shard
from lavie.data.shards.index import load_index
from tests.data.cache.entries import MADE_WITH, random_entries


@pytest.fixture
def filled(demo, tmp_path):
    """Make a cache of 2 cuts of each sample, 20 entries a shard.

    Returns the folder of its size, the index of its samples, the tensors of its clips' entries and of its images'.
    """
    index = load_index([str(demo / "train")])
    folder = tmp_path / "4x16x24"
    made = {}
    for kind, samples in (("clips", index.videos), ("images", index.images)):
        made[kind] = random_entries(2 * len(samples), 4 if kind == "clips" else 1, seed=len(kind))
        [(numbers, keys)] = Lookup.scan(folder, kind).absent(samples, 2)
        assert numbers.tolist() == list(range(2 * len(samples)))
        if kind == "clips":
            image_entry = {name: tensor[0] for name, tensor in random_entries(1, 1).items()}
            write_description(folder, MADE_WITH, image_entry, torch.ones(1, 5, 6).half(), "float32")
        for start in range(0, len(keys), 20):
            part = slice(start, start + 20)
            write_shard(folder, kind, keys[part], {name: entry[part] for name, entry in made[kind].items()})
    write_lookups(folder)
    return folder, index, made["clips"], made["images"]
