"""The indices of remote shards are fetched once for a node, and again only when they have changed."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from lavie.data.shards import compile as compile_module
from lavie.data.shards.index import load_index
from lavie.data.shards.remote import RemoteFile, StoreError
from lavie.data.shards.remote_index import fetch_indices
from lavie.errors import DataError
from tests.data.shards.web import refuse, send

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'lavie[remote]'")


def fetches(web):
    """Return how often the server was asked for an index."""
    return sum(method == "GET" and path.endswith(".jsonl") for method, path, _ in web.requests)


@pytest.mark.parametrize("in_memory", (1000, 0))
def test_indices_are_fetched_again_only_when_they_changed(web, served_folder, tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(compile_module, "IN_MEMORY", in_memory)
    url = f"{web.url}/set"
    first = list(load_index((url,), remote=True))
    assert fetches(web) == 2
    sent = pickle.dumps(load_index((url,), remote=True))
    assert list(pickle.loads(sent)) == first
    assert fetches(web) == 2
    assert len(list((tmp_path / "cache/lavie").glob("*.table"))) == (in_memory == 0)
    path = served_folder / "00000.index.jsonl"
    path.write_text(path.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    again = load_index((url,), remote=True)
    assert fetches(web) == 3
    assert sum(s.key.startswith("x") for s in again) == sum("00000" in s.shard for s in first)
    assert len(list((tmp_path / "cache/lavie/indices").iterdir())) == 2  # the old version is gone
    web.stamps = False  # the server tells no versions: nothing says that a copy is fresh
    assert list(load_index((url,), remote=True)) == list(load_index((url,), remote=True)) == list(again)
    assert fetches(web) == 7
    path.write_text(path.read_text().replace('"key": "x', '"key": "y').replace('"member": "x', '"member": "y'))
    assert [s.key[0] for s in load_index((url,), remote=True)] == [s.key[0].replace("x", "y") for s in again]


def test_ranks_of_a_node_fetch_an_index_once(web):
    with ThreadPoolExecutor(4) as ranks:  # a lock on a file holds between threads as between processes
        loaded = list(ranks.map(lambda _: list(load_index((f"{web.url}/set",), remote=True)), range(4)))
    assert fetches(web) == 2
    assert all(samples == loaded[0] for samples in loaded)


@pytest.mark.parametrize(
    "damage, message",
    (
        (lambda f: (f / "00001.index.jsonl").unlink(), r"shard http://.*/set/00001.tar: no index beside it"),
        (lambda f: (f / "00001.tar").unlink(), r"1 of its shards are gone.*first: http://.*/00001.index.jsonl"),
        (lambda f: (f / "00001.tar").write_bytes(bytes(512)), r"00001.tar: 512 bytes, its index was made for"),
        (
            lambda f: (f / "00001.index.jsonl").write_text("{}"),
            r"index http://.*/00001.index.jsonl: of format 1, wanted 3",
        ),
        (lambda f: [p.unlink() for p in f.iterdir()], r"no .tar shards are listed there.*name every shard"),
        (shutil.rmtree, r"set: no such file"),
    ),
)
def test_a_folder_that_is_no_dataset_is_named_with_its_url(web, served_folder, damage, message):
    damage(served_folder)
    with pytest.raises(DataError, match=message):
        load_index((f"{web.url}/set",), remote=True)


def test_a_store_that_fails_at_the_start_is_not_asked_for_every_index(web, tmp_path):
    web.fault = refuse(500)
    entries = [RemoteFile(f"{web.url}/{n}.index.jsonl", 9, "etag=1") for n in range(5000)]
    with pytest.raises(StoreError, match=r"\d.index.jsonl: \d attempts in .*ClientResponseError: 500"):
        fetch_indices(entries, tmp_path)
    assert len(web.requests) < 2500
    assert not list(tmp_path.glob("*.partial"))


def test_a_listing_leads_nowhere_else(web, served_folder):
    def listing(handler):
        if handler.path.rstrip("/") != "/set":
            return False
        names = ["http://127.0.0.1:1/00000.tar", "../../00000.tar", "//127.0.0.1:1/00001.tar", "00000.index.jsonl"]
        names += ["file:///etc/00000.tar", "pipe:x 00000.tar", "/other/00001.tar"]
        send(handler, 200, "".join(f'<a href="{n}">x</a>' for n in names).encode(), type="text/html")
        return True

    web.fault = listing
    assert {s.shard for s in load_index((f"{web.url}/set",), remote=True)} == {f"{web.url}/set/00000.tar"}
    assert all(path.startswith("/set") for _, path, _ in web.requests)
