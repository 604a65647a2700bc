"""The lookup finds what is there, and nothing else."""

import numpy as np

from lavie.data.cache.lookup import Lookup


def test_the_lookup_finds_what_is_there_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (100_000, 16), dtype=np.uint8)
    keys[::7, 8:] = 0  # keys that end, or begin, in zeros
    keys[::11, :8] = 0
    keys = np.unique(keys, axis=0)
    rng.shuffle(keys)
    order = np.argsort(keys.copy().view("S16").ravel())
    where = np.arange(len(keys), dtype=np.uint32)
    Lookup(keys.copy().view("S16").ravel()[order], where[order] // 1000, where[order] % 1000, []).save(
        tmp_path, "clips"
    )
    lookup = Lookup.load(tmp_path, "clips")
    lookup.shards = [f"s{i}" for i in range(len(keys) // 1000 + 1)]
    found = lookup.find(keys)
    assert (found >= 0).all()
    assert [lookup.locate(found[i]) for i in (0, 999, 54_321)] == [("s0", 0), ("s0", 999), ("s54", 321)]
    others = keys.copy()
    others[:, 15] ^= 1
    known = {key.tobytes() for key in keys}
    assert ((lookup.find(others) >= 0) == [key.tobytes() in known for key in others]).all()
    assert (Lookup.scan(tmp_path, "images").find(keys) < 0).all()
