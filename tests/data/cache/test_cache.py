"""Entries of a cache come back as they were written, and no damage passes for an entry."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lavie.data.cache.cache import Cache
from lavie.data.cache.entry import entry_key
from lavie.data.cache.failures import write_failures
from lavie.data.cache.layout import shard_names
from lavie.data.cache.lookup import Lookup
from lavie.data.cache.tensor_file import TensorFile
from lavie.data.cache.write import write_lookups
from lavie.errors import DataError
from tests.data.cache.entries import MADE_WITH, config, flip

pytestmark = pytest.mark.usefixtures("reversed_folders")


def test_entries_come_back_bit_for_bit(filled):
    folder, index, clips, images = filled
    cache = pickle.loads(pickle.dumps(Cache(folder.parent, config(), MADE_WITH)))
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
    assert len(shard_names(folder, "clips")) == 3
    assert len(shard_names(folder, "images")) == 1


def test_damage_in_a_shard_is_found_where_it_is(filled):
    folder, index, clips, _ = filled
    name, row = Lookup.load(folder, "clips").locate(
        int(Lookup.load(folder, "clips").find(np.frombuffer(entry_key(index.videos[5], 1), np.uint8)[None])[0])
    )
    flip(folder / name, TensorFile(folder / name, "")._starts["std"] + row * 144 + 77)
    cache = Cache(folder.parent, config(), MADE_WITH)
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
    cache = Cache(folder.parent, config(), MADE_WITH)
    errors = []
    for sample in index.videos:
        try:
            cache.read(sample, 0, verify=False)
        except DataError as error:
            errors.append(str(error))
    assert errors
    assert all("holds another entry than the lookup says" in error for error in errors)


@pytest.mark.parametrize("size", (0, 5, 300, -1))
def test_a_truncated_file_is_refused(filled, size):
    folder, index, *_ = filled
    name = shard_names(folder, "clips")[0]
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:size])
    cache = Cache(folder.parent, config(), MADE_WITH)
    errors = []
    for sample in index.videos:
        for cut in range(2):
            try:
                cache.read(sample, cut)
            except DataError as error:
                errors.append(str(error))
    assert all(f"{name}: cannot be read" in error for error in errors)
    assert len(errors) in (20, 8)  # the shards have 20, 20 and 8 entries
    with pytest.raises(DataError, match=rf"{name}: cannot be read.*Delete it"):
        Lookup.scan(folder, "clips")
    (folder / "images.lookup").write_bytes((folder / "images.lookup").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"images\.lookup: cannot be read.*Run `lavie data cache` again"):
        Cache(folder.parent, config(), MADE_WITH)


def test_missing_entries_are_counted_and_the_first_is_named(filled):
    folder, index, *_ = filled
    needs = {"clips": [index.videos], "images": [index.images]}
    with pytest.raises(
        DataError, match=rf"34 of 102 entries are missing \(first: {index.videos[0].key}, cut 2\).*cuts 3"
    ):
        Cache(folder.parent, config(), MADE_WITH).require(needs, config(cuts=3))
    Cache(folder.parent, config(), MADE_WITH).require(needs, config(cuts=1))  # fewer cuts than were made
    with pytest.raises(DataError, match=r"cut 2 is not in data\.cache .*: never encoded, or changed since"):
        Cache(folder.parent, config(), MADE_WITH).read(index.videos[0], 2)
    (folder / shard_names(folder, "images")[0]).unlink()
    with pytest.raises(DataError, match=r"images\.lookup: 1 of its shards are gone .*Run `lavie data cache` again"):
        Cache(folder.parent, config(), MADE_WITH)
    write_lookups(folder)
    cache = Cache(folder.parent, config(), MADE_WITH)
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
    cache = Cache(folder.parent, config(), MADE_WITH)
    cache.require({"clips": [index.videos], "images": [index.images]}, config())
    assert "20 entries could not be decoded when it was made; spares take their places" in caplog.text
    with pytest.raises(DataError, match=r"cut 1 is not in data.cache .*: no such codec"):
        cache.read(index.images[9], 1)
    write_failures(folder, 1, [])
    with pytest.raises(DataError, match="5 of 68 entries are missing"):
        Cache(folder.parent, config(), MADE_WITH).require({"clips": [index.videos], "images": [index.images]}, config())


def test_a_cache_made_for_something_else_is_refused(filled):
    folder, *_ = filled
    with pytest.raises(DataError, match=r"data\.fps is 8\.0, wanted 12; vae/ is 'abc', wanted 'abd'\. .* a new folder"):
        Cache(folder.parent, config(), {"data.fps": 12, "vae/": "abd"})
    with pytest.raises(DataError, match=r"no entries of 8x16x24 \(data\.num_frames, height, width\), but 4x16x24"):
        Cache(folder.parent, config(num_frames=8), MADE_WITH)
    with pytest.raises(DataError, match="but none at all"):
        Cache(folder / "nowhere", config(), MADE_WITH)


def test_a_damaged_description_is_refused(filled):
    folder, *_ = filled
    text = (folder / "cache.json").read_text()
    for wrong in (text[:-5], json.dumps(json.loads(text) | {"dtype": "int8"}), "[]", "{}"):
        (folder / "cache.json").write_text(wrong)
        with pytest.raises(DataError, match=r"cache\.json: cannot be read"):
            Cache(folder.parent, config(), MADE_WITH)
    (folder / "cache.json").write_text(text)
    flip(folder / "empty.safetensors", -1)
    with pytest.raises(DataError, match=r"empty\.safetensors: damaged"):
        Cache(folder.parent, config(), MADE_WITH)


@pytest.mark.parametrize("format", (1, 3))
def test_a_cache_of_another_version_is_refused_with_what_makes_it_anew(filled, format):
    folder, *_ = filled
    text = (folder / "cache.json").read_text()
    assert json.loads(text)["format"] == 2
    (folder / "cache.json").write_text(json.dumps(json.loads(text) | {"format": format}))
    with pytest.raises(DataError, match=rf"of format {format}, wanted 2: .* `lavie data cache CONFIG\.yaml OUT`"):
        Cache(folder.parent, config(), MADE_WITH)


def test_two_entries_that_were_swapped_are_refused_each(filled):
    """Two rows of one shard change places, their hashes with them: only the entries' keys tell."""
    folder, index, *_ = filled
    name = shard_names(folder, "images")[0]
    tensors, metadata = load_file(folder / name), TensorFile(folder / name, "").metadata
    order = torch.arange(len(tensors["key"]))
    order[[3, 7]] = order[[7, 3]]
    swapped = {tensors["key"][3].numpy().tobytes(), tensors["key"][7].numpy().tobytes()}
    save_file({key: value[order].contiguous() for key, value in tensors.items()}, folder / name, metadata)
    cache, refused = Cache(folder.parent, config(), MADE_WITH), {}
    for sample in index.images:
        for cut in range(2):
            try:
                cache.read(sample, cut)
            except DataError as error:
                refused[entry_key(sample, cut)] = str(error)
    assert refused.keys() == swapped
    assert all(re.search(rf"{name}, row [37]: holds another entry than the lookup", e) for e in refused.values())
