"""The files of a cache: entries come back as they were written, and no damage passes for an entry."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lavie.config.data import DataConfig
from lavie.data.cache.cache import Cache
from lavie.data.cache.description import write_description
from lavie.data.cache.entry import entry_key, entry_keys
from lavie.data.cache.failures import write_failures
from lavie.data.cache.layout import shard_names
from lavie.data.cache.lookup import Lookup
from lavie.data.cache.tensor_file import TensorFile
from lavie.data.cache.write import write_lookups, write_shard
from lavie.data.shards.index import Index, load_index
from lavie.errors import DataError

MADE = {"data.fps": 8.0, "vae/": "abc"}
SHAPES = {"mean": (4, 3, 2, 3), "std": (4, 3, 2, 3), "text": (1, 5, 6)}


def config(**changes) -> DataConfig:
    values = dict(train=[], num_frames=4, num_images=1, height=16, width=24, fps=8, cuts=2, cache="somewhere")
    return DataConfig(**{**values, **changes})


def random_entries(count, frames=4, seed=0, dtype=torch.float16):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (frames if len(shape) == 4 else 1, *shape[1:]) for name, shape in SHAPES.items()}
    return {name: torch.randn(count, *shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.fixture
def filled(demo, tmp_path):
    """(folder, the cache's index, entries of its clips, entries of its images): 2 cuts a sample, 20 entries a shard."""
    index = load_index([str(demo / "train")])
    folder = tmp_path / "4x16x24"
    made = {}
    for kind, samples in (("clips", index.videos), ("images", index.images)):
        made[kind] = random_entries(2 * len(samples), 4 if kind == "clips" else 1, seed=len(kind))
        [(numbers, keys)] = Lookup.scan(folder, kind).absent(samples, 2)
        assert numbers.tolist() == list(range(2 * len(samples)))
        if kind == "clips":
            write_description(
                folder, MADE, {n: e[0] for n, e in random_entries(1, 1).items()}, torch.ones(1, 5, 6).half(), "float32"
            )
        for start in range(0, len(keys), 20):
            part = slice(start, start + 20)
            write_shard(folder, kind, keys[part], {name: entry[part] for name, entry in made[kind].items()})
    write_lookups(folder)
    return folder, index, made["clips"], made["images"]


def test_entries_come_back_bit_for_bit(filled):
    folder, index, clips, images = filled
    cache = pickle.loads(pickle.dumps(Cache(folder.parent, config(), MADE)))
    cache.require({"clips": [index.videos], "images": [index.images]}, config())
    for samples, entries in ((index.videos, clips), (index.images, images)):
        for i, sample in enumerate(samples):
            for cut in range(2):
                entry = cache.read(sample, cut)
                assert list(entry) == ["mean", "std", "text"]
                assert all(torch.equal(entry[name], entries[name][2 * i + cut]) for name in entry)
    assert torch.equal(cache.empty_text, torch.ones(5, 6).half())
    one, other = (sum(entry.nbytes for entry in cache.read(s, 0).values()) for s in (index.videos[0], index.images[0]))
    assert cache.row_bytes == one + other
    assert len(shard_names(folder, "clips")) == 3 and len(shard_names(folder, "images")) == 1


def test_shards_are_plain_safetensors(filled):
    folder, _, clips, _ = filled
    shards = [load_file(folder / name) for name in shard_names(folder, "clips")]
    assert {name: tuple(t.shape[1:]) for name, t in shards[0].items()} == SHAPES | {"key": (16,), "sha256": (32,)}
    for shard in shards:
        key = shard["key"][3].numpy().tobytes()
        parts = [shard[name][3].numpy().tobytes() for name in ("mean", "std", "text")]
        assert hashlib.sha256(key + b"".join(parts)).digest() == shard["sha256"][3].numpy().tobytes()
    assert sum(len(shard["key"]) for shard in shards) == len(clips["mean"])


def test_keys_tell_media_captions_and_cuts_apart(demo):
    index = load_index([str(demo / "train")])
    [(media, captions)] = index.videos.hashes()
    assert media.shape == captions.shape == (24, 32)
    for i, sample in enumerate(index.videos):
        assert media[i].tobytes().hex() == sample.sha256 and captions[i].tobytes().hex() == sample.caption_sha256
        assert entry_keys(media, captions, 7)[i].tobytes() == entry_key(sample, 7)
    rng = np.random.default_rng(0)
    media, captions = (rng.integers(0, 256, (50, 32), dtype=np.uint8) for _ in range(2))
    a, b = np.meshgrid(np.arange(50), np.arange(50))
    keys = np.concatenate([entry_keys(media[a.ravel()], captions[b.ravel()], cut) for cut in range(4)])
    assert len(np.unique(keys, axis=0)) == 4 * 50 * 50


def test_hashes_of_a_selection(demo):
    index = load_index([str(demo / "train")]).videos
    whole = [np.concatenate(parts) for parts in zip(*index.hashes(), strict=True)]
    mask = np.arange(24) % 3 == 1
    chosen = index.where(mask)
    for chunk in (1, 5, 100):
        parts = [np.concatenate(parts) for parts in zip(*chosen.hashes(chunk), strict=True)]
        assert all(np.array_equal(part, w[mask]) for part, w in zip(parts, whole, strict=True))
    assert list(Index([]).hashes()) == []


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


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_damage_in_a_shard_is_found_where_it_is(filled):
    folder, index, clips, _ = filled
    name, row = Lookup.load(folder, "clips").locate(
        int(Lookup.load(folder, "clips").find(np.frombuffer(entry_key(index.videos[5], 1), np.uint8)[None])[0])
    )
    flip(folder / name, TensorFile(folder / name, "")._starts["std"] + row * 144 + 77)
    cache = Cache(folder.parent, config(), MADE)
    with pytest.raises(DataError, match=rf"{name}, row {row}: the SHA-256 differs .* Delete it and run"):
        cache.read(index.videos[5], 1)
    assert not torch.equal(cache.read(index.videos[5], 1, verify=False)["std"], clips["std"][11])
    for i in (0, 4, 6):
        assert torch.equal(cache.read(index.videos[i], 1)["std"], clips["std"][2 * i + 1])


def test_a_lookup_that_is_wrong_gives_no_wrong_entry(filled):
    folder, index, *_ = filled
    path = folder / "clips.lookup"
    tensors = load_file(path)
    tensors["row"] = tensors["row"].to(torch.int64).roll(1).to(torch.uint32)
    save_file(tensors, path, TensorFile(path, "").metadata)
    cache = Cache(folder.parent, config(), MADE)
    with pytest.raises(DataError, match="holds another entry than the lookup says"):
        for sample in index.videos:
            cache.read(sample, 0, verify=False)


@pytest.mark.parametrize("size", (0, 5, 300, -1))
def test_a_truncated_file_is_refused(filled, size):
    folder, index, *_ = filled
    name = shard_names(folder, "clips")[0]
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:size])
    cache = Cache(folder.parent, config(), MADE)
    refused = 0
    for sample in index.videos:
        for cut in range(2):
            try:
                cache.read(sample, cut)
            except DataError as error:
                assert f"{name}: cannot be read" in str(error)
                refused += 1
    assert refused == 20 or refused == 8  # the shards have 20, 20 and 8 entries
    with pytest.raises(DataError, match=rf"{name}: cannot be read.*Delete it"):
        Lookup.scan(folder, "clips")
    (folder / "images.lookup").write_bytes((folder / "images.lookup").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"images\.lookup: cannot be read.*Run `lavie data cache` again"):
        Cache(folder.parent, config(), MADE)


@pytest.mark.parametrize(
    "header",
    (b"", b"[]", b"{}", b'{"a": 1}', b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}', b"[" * 100_000),
)
def test_headers_that_are_none(tmp_path, header):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError, match="x: cannot be read.*mend it"):
        TensorFile(tmp_path / "x", "mend it")


def test_missing_entries_are_counted_and_the_first_is_named(filled):
    folder, index, *_ = filled
    needs = {"clips": [index.videos], "images": [index.images]}
    with pytest.raises(
        DataError, match=rf"34 of 102 entries are missing \(first: {index.videos[0].key}, cut 2\).*cuts 3"
    ):
        Cache(folder.parent, config(), MADE).require(needs, config(cuts=3))
    Cache(folder.parent, config(), MADE).require(needs, config(cuts=1))  # fewer cuts than were made
    (folder / shard_names(folder, "images")[0]).unlink()
    with pytest.raises(DataError, match=r"images\.lookup: 1 of its shards are gone .*Run `lavie data cache` again"):
        Cache(folder.parent, config(), MADE)
    write_lookups(folder)
    cache = Cache(folder.parent, config(), MADE)
    with pytest.raises(DataError, match=rf"20 of 68 entries are missing \(first: {index.images[0].key}, cut 0\)"):
        cache.require(needs, config())
    cache.require({"clips": [index.videos]}, config())


def test_entries_that_could_not_be_made_are_known(filled, caplog):
    folder, index, *_ = filled
    (folder / shard_names(folder, "images")[0]).unlink()
    write_lookups(folder)
    lines = [
        {"entry": entry_key(s, cut).hex(), "key": s.key, "cut": cut, "reason": "no such codec"}
        for s in index.images
        for cut in range(2)
    ]
    write_failures(folder, 0, lines[:15])
    write_failures(folder, 1, lines[15:])
    cache = Cache(folder.parent, config(), MADE)
    cache.require({"clips": [index.videos], "images": [index.images]}, config())
    assert "20 entries could not be decoded when it was made; spares take their places" in caplog.text
    with pytest.raises(DataError, match="cut 1 is not in data.cache .*: no such codec"):
        cache.read(index.images[9], 1)
    write_failures(folder, 1, [])
    with pytest.raises(DataError, match="5 of 68 entries are missing"):
        Cache(folder.parent, config(), MADE).require({"clips": [index.videos], "images": [index.images]}, config())


def test_a_cache_made_for_something_else_is_refused(filled):
    folder, *_ = filled
    with pytest.raises(DataError, match=r"data\.fps is 8\.0, wanted 12; vae/ is 'abc', wanted 'abd'\. .* a new folder"):
        Cache(folder.parent, config(), {"data.fps": 12, "vae/": "abd"})
    with pytest.raises(DataError, match=r"no entries of 8x16x24 \(data\.num_frames, height, width\), but 4x16x24"):
        Cache(folder.parent, config(num_frames=8), MADE)
    with pytest.raises(DataError, match="but none at all"):
        Cache(folder / "nowhere", config(), MADE)
    black = {name: entry[0] for name, entry in random_entries(1, 1).items()}
    empty = torch.ones(1, 5, 6)
    with pytest.raises(DataError, match="dtype is float16, this call has float32: change --dtype"):
        write_description(folder, MADE, black, empty, "float32")
    with pytest.raises(DataError, match="encoded_in is float32, this call has bfloat16: change mixed_precision"):
        write_description(folder, MADE, black, empty.half(), "bfloat16")
    with pytest.raises(DataError, match="OUT .*4x16x24: made for something else: vae/ is 'abc', wanted None"):
        write_description(folder, {"data.fps": 8.0}, black, empty.half(), "float32")
    text = (folder / "cache.json").read_text()
    for wrong in (text[:-5], json.dumps(json.loads(text) | {"format": 2}), "[]", "{}"):
        (folder / "cache.json").write_text(wrong)
        with pytest.raises(DataError, match=r"cache\.json: cannot be read"):
            Cache(folder.parent, config(), MADE)
    (folder / "cache.json").write_text(text)
    flip(folder / "empty.safetensors", -1)
    with pytest.raises(DataError, match=r"empty\.safetensors: damaged"):
        Cache(folder.parent, config(), MADE)
