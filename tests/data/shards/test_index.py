"""The samples of a dataset come back as they were written, in order, in selections, and in other processes."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from lavie.data.media.encode import encode_mp4, encode_vp9
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index import Index, load_index
from lavie.data.shards.table import COLUMNS
from lavie.errors import DataError
from tests.data.datasets import pack_media

pytestmark = pytest.mark.usefixtures("reversed_folders")


def test_index_comes_back_as_written(demo):
    tar = next((demo / "train").glob("*.tar"))
    samples, rejected, _ = index_shard(tar)  # probes anew
    samples = [replace(sample, notes=()) for sample in samples]  # which tables leave out
    index = load_index((str(demo / "train"),))
    assert list(index) == sorted(samples, key=lambda s: s.kind, reverse=True) == list(load_index((str(tar),)))
    assert rejected == []
    assert (len(index.videos), len(index.images)) == (24, 10)


def test_several_paths_keep_their_order(demo):
    train, validation = str(demo / "train"), str(demo / "validation")
    index = load_index((validation, train))
    for kind in (index.videos, index.images):
        assert [s.shard for s in kind] == sorted((s.shard for s in kind), key=lambda s: train in s)
    assert len(index) == len(load_index((train,))) + len(load_index((validation,)))


def test_columns_and_views(demo):
    paths = (str(demo / "validation"), str(demo / "train"))
    index = load_index(paths)
    assert [s.kind for s in index] == ["video"] * len(index.videos) + ["image"] * len(index.images)
    assert index[-1] == index.images[-1]
    assert index[:2] == tuple(index.videos)[:2]
    for part in (index, index.videos, index.images, load_index(paths[:1]).videos):
        for name in set(COLUMNS) - {"shard", "codec", "fps"}:
            assert part.column(name).tolist() == [getattr(s, name) for s in part]
        assert [part.shards[i] for i in part.column("shard")] == [s.shard for s in part]
        assert [part.codecs[i] for i in part.column("codec")] == [s.codec for s in part]
        assert [None if np.isnan(fps) else fps for fps in part.column("fps")] == [s.fps for s in part]
    with pytest.raises(IndexError):
        index[len(index)]
    with pytest.raises(ValueError, match="one of size, frames"):
        index.column("caption")


def test_selections_compose(demo):
    index = load_index((str(demo / "train"), str(demo / "validation")))
    samples = list(index)
    some = np.arange(len(index)) % 3 > 0
    chosen = index.where(some)
    assert list(chosen) == [s for s, wanted in zip(samples, some, strict=True) if wanted]
    again = chosen.column("size") > np.median(chosen.column("size"))
    assert list(chosen.where(again)) == [s for s, wanted in zip(chosen, again, strict=True) if wanted]
    assert not index.where(np.zeros(len(index), bool))
    assert not index.where(np.zeros(len(index), bool)).videos
    with pytest.raises(ValueError, match="wanted bool"):
        index.where(some[1:])


def test_hashes_of_a_selection(demo):
    index = load_index([str(demo / "train")]).videos
    whole = [np.concatenate(parts) for parts in zip(*index.hashes(), strict=True)]
    mask = np.arange(24) % 3 == 1
    chosen = index.where(mask)
    for chunk in (1, 5, 100):
        parts = [np.concatenate(parts) for parts in zip(*chosen.hashes(chunk), strict=True)]
        assert all(np.array_equal(part, w[mask]) for part, w in zip(parts, whole, strict=True))
    assert list(Index([]).hashes()) == []


def test_an_index_goes_to_another_process_as_its_path(train_copy, on_disk):
    index = load_index((str(train_copy),))
    index = index.where(index.column("size") > 0)
    sent = pickle.dumps(index)
    assert len(sent) < 4000
    assert list(pickle.loads(sent)) == list(index)
    jsonl = train_copy / "00000.index.jsonl"
    jsonl.write_text(jsonl.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    load_index((str(train_copy),))
    with pytest.raises(DataError, match="was replaced"):
        pickle.loads(sent)


def test_codecs_and_shards_of_several_datasets_are_counted_together(tmp_path):
    """The first dataset has VP9 alone, the second H.264 first: the numbers of one mean others in the other."""
    black = np.zeros((2, 32, 32, 3), np.uint8)
    first = pack_media(tmp_path / "first", {"a": encode_vp9(black, 8)})
    second = pack_media(tmp_path / "second", {"b": encode_mp4(black, 8), "c": encode_vp9(black, 8)})
    index = load_index((str(first), str(second)))
    assert [index.codecs[number] for number in index.column("codec")] == ["vp9", "h264", "vp9"]
    assert [index.shards[number] for number in index.column("shard")] == [
        str(first / "00000.tar"),
        *[str(second / "00000.tar")] * 2,
    ]
