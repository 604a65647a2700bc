"""Shards behind URLs: the samples and bytes of a disk, faults that pass and faults that stay, no secrets told."""

import hashlib
import itertools
import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import typer.testing

from lavie.cli.main import app
from lavie.config.data import DataConfig
from lavie.data.feed.loader import build_loader
from lavie.data.feed.rows import place
from lavie.data.feed.share import Share
from lavie.data.shards import compile as compile_module
from lavie.data.shards import remote
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.data.shards.remote import RemoteFile, StoreError, check_url, read_range, redact
from lavie.data.shards.remote_index import fetch_indices
from lavie.errors import DataError
from tests.data.shards.web import Web, cut, delay, first_times, refuse, send

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'lavie[remote]'")


@pytest.fixture
def folder(demo, tmp_path) -> Path:
    """Two shards."""
    out = tmp_path / "web/set"
    out.mkdir(parents=True)
    for number, part in enumerate(("train", "validation")):
        for suffix in (".tar", ".index.jsonl"):
            shutil.copy(demo / part / f"00000{suffix}", out / f"0000{number}{suffix}")
    return out


@pytest.fixture
def web(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    remote._down.clear()
    server = Web(folder.parent)
    yield server
    server.close()


def sequence(path, steps=3, start_step=0, **changes):
    """(keys, positions, dropped) of each batch, and their pixels."""
    values = {"num_frames": 4, "num_images": 1, "height": 16, "width": 16, "fps": 8, "num_workers": 0}
    data = DataConfig(train=(str(path),), remote=True, **{**values, **changes})
    batches = build_loader(data, data.train, Share(seed=0, train_batch_size=8), start_step=start_step)
    taken = list(itertools.islice(batches, steps))
    batches.close()
    return [(b["keys"], b["positions"].tolist(), b["dropped"]) for b in taken], torch.cat([b["pixels"] for b in taken])


def read(url, start, size):
    return read_range(url, start, size, 5.0)


def moved(samples, url):
    """Samples of a folder, as they are where it is served."""
    return [(s.key, s.offset, s.sha256, f"{url}/{Path(s.shard).name}") for s in samples]


def of(samples):
    return [(s.key, s.offset, s.sha256, s.shard) for s in samples]


# --- the same as on a disk


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_and_pixels_are_those_of_the_same_shards_on_a_disk(web, folder, num_workers):
    expected, pixels = sequence(folder, steps=9)  # 72 positions of 24 videos: three epochs
    found, same = sequence(f"{web.url}/set", steps=9, num_workers=num_workers)
    assert found == expected and torch.equal(same, pixels)
    found, same = sequence(f"{web.url}/set/", steps=4, start_step=5, num_workers=num_workers)
    assert found == expected[5:] and torch.equal(same, pixels[40:])
    ranges = [r for method, path, r in web.requests if path.endswith(".tar") and method == "GET"]
    assert ranges and all(ranges)  # never a whole shard


@pytest.mark.parametrize("scheme", ["memory", "file", "http"])
def test_every_member_is_read_by_its_range(web, folder, scheme):
    import fsspec

    url = {"memory": f"memory://{folder.name}", "file": f"file://{folder}", "http": f"{web.url}/set"}[scheme]
    if scheme == "memory":
        fsspec.filesystem("memory").put(f"{folder}/", f"/{folder.name}/", recursive=True)
    index, local = load_index((url,), remote=True), load_index((str(folder),))
    assert of(index) == moved(local, url)
    assert [read_member(s) for s in index] == [read_member(s) for s in local]
    single = load_index((f"{url}/00001.tar",), remote=True)
    assert of(single) == moved(load_index((str(folder / "00001.tar"),)), url)


def test_a_process_that_was_forked_has_its_own_connection(web):
    (sample, *_) = load_index((f"{web.url}/set",), remote=True)
    expected = read_member(sample)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(read_member, [sample] * 6).get(60) == [expected] * 6


# --- indices are fetched once


def fetches(web):
    return sum(method == "GET" and path.endswith(".jsonl") for method, path, _ in web.requests)


@pytest.mark.parametrize("in_memory", [1000, 0])
def test_indices_are_fetched_again_only_when_they_changed(web, folder, tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(compile_module, "IN_MEMORY", in_memory)
    url = f"{web.url}/set"
    first = list(load_index((url,), remote=True))
    assert fetches(web) == 2
    sent = pickle.dumps(load_index((url,), remote=True))
    assert list(pickle.loads(sent)) == first and fetches(web) == 2
    assert len(list((tmp_path / "cache/lavie").glob("*.table"))) == (in_memory == 0)
    path = folder / "00000.index.jsonl"
    path.write_text(path.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    again = load_index((url,), remote=True)
    assert fetches(web) == 3 and sum(s.key.startswith("x") for s in again) == sum("00000" in s.shard for s in first)
    assert len(list((tmp_path / "cache/lavie/indices").iterdir())) == 2  # the old version is gone
    web.stamps = False  # the server tells no versions: nothing says that a copy is fresh
    assert list(load_index((url,), remote=True)) == list(load_index((url,), remote=True)) == list(again)
    assert fetches(web) == 7
    path.write_text(path.read_text().replace('"key": "x', '"key": "y').replace('"member": "x', '"member": "y'))
    assert [s.key[0] for s in load_index((url,), remote=True)] == [s.key[0].replace("x", "y") for s in again]


def test_ranks_of_a_node_fetch_an_index_once(web):
    with ThreadPoolExecutor(4) as ranks:  # a lock on a file holds between threads as between processes
        loaded = list(ranks.map(lambda _: list(load_index((f"{web.url}/set",), remote=True)), range(4)))
    assert fetches(web) == 2 and all(samples == loaded[0] for samples in loaded)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "00001.index.jsonl").unlink(), r"shard http://.*/set/00001.tar: no index beside it"),
        (lambda f: (f / "00001.tar").unlink(), r"1 of its shards are gone.*first: http://.*/00001.index.jsonl"),
        (lambda f: (f / "00001.tar").write_bytes(bytes(512)), r"00001.tar: 512 bytes, its index was made for"),
        (lambda f: (f / "00001.index.jsonl").write_text("{}"), r"index http://.*/00001.index.jsonl: cannot be read"),
        (lambda f: [p.unlink() for p in f.iterdir()], r"no .tar shards are listed there.*name every shard"),
        (shutil.rmtree, r"set: no such file"),
    ],
)
def test_a_folder_that_is_no_dataset_is_named_with_its_url(web, folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        load_index((f"{web.url}/set",), remote=True)


# --- faults


@pytest.mark.parametrize("fault", [refuse(503), refuse(429), cut, delay(3)])
def test_faults_that_pass_change_nothing(web, fault):
    samples = load_index((f"{web.url}/set",), remote=True)[:2]
    expected = [read_member(s) for s in samples]
    web.fault = first_times(2, fault)
    assert [read_member(s, timeout=6) for s in samples] == expected


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (refuse(503), "3 attempts in .* s, the last: ClientResponseError: 503"),
        (cut, "3 attempts in .* s, the last: ClientPayloadError"),
        (delay(3), "3 attempts in .* s, the last: no answer within 1 s"),
        (refuse(403), "ClientResponseError: 403"),
        (refuse(404), "ClientResponseError: 404"),
    ],
)
def test_a_sample_that_stays_out_of_reach_is_dropped_for_a_spare_and_named(web, folder, fault, told):
    expected, pixels = sequence(folder)
    lost = next(s for s in load_index((f"{web.url}/set",), remote=True) if s.key == expected[1][0][0][0])
    span = f"bytes={lost.offset}-{lost.offset + lost.size - 1}"
    wanted = f"/set/{Path(lost.shard).name}", span
    web.fault = lambda handler: (handler.path, handler.headers.get("Range")) == wanted and fault(handler)
    remote._down.clear()
    found, others = sequence(f"{web.url}/set", timeout=6)
    dropped = [d for _, _, some in found for d in some]
    assert dropped[0]["position"] == 8 and {d["key"] for d in dropped} == {lost.key}
    asked = sum(request == ("GET", *wanted) for request in web.requests)
    assert asked == len(dropped) * (1 if "ClientResponseError: 40" in told else 3)
    assert re.search(told, dropped[0]["reason"]) and place(lost) in dropped[0]["reason"]
    rows = {d["position"] for d in dropped}
    keys = [k for names, _, _ in expected for k in names]
    assert [k for i, k in enumerate(k for names, _, _ in found for k in names) if i not in rows] == [
        k for i, k in enumerate(keys) if i not in rows
    ]
    same = [i for i in range(24) if i not in rows]
    assert torch.equal(others[same], pixels[same])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_store_that_no_longer_answers_stops_the_run(web, num_workers):
    url = f"{web.url}/set"
    load_index((url,), remote=True)
    web.fault = lambda handler: handler.path.endswith(".tar") and handler.command == "GET" and refuse(500)(handler)
    with pytest.raises(DataError, match=r"position 0: 21 samples in a row cannot be read.*ClientResponseError: 500"):
        sequence(url, num_workers=num_workers)
    # The first sample has all its attempts; then the store is known to be down. (Workers read ahead: 16 rows.)
    assert 21 + 2 <= sum(path.endswith(".tar") and r is not None for _, path, r in web.requests) <= 16 * (21 + 2)


def test_a_silent_server_costs_bounded_time(web):
    url, start = f"{web.url}/set", time.monotonic()
    sample = load_index((url,), remote=True)[0]
    web.fault = delay(60)
    with pytest.raises(DataError, match=f":{sample.offset}:{sample.key}: cannot be read: .*no answer within 0.3 s"):
        read_member(sample, timeout=1.8)
    assert time.monotonic() - start < 10
    web.fault = lambda handler: False
    assert hashlib.sha256(read_member(sample)).hexdigest() == sample.sha256  # and it is read when it answers again


def test_a_store_that_fails_at_the_start_is_not_asked_for_every_index(web, tmp_path):
    web.fault = refuse(500)
    entries = [RemoteFile(f"{web.url}/{n}.index.jsonl", 9, "etag=1") for n in range(5000)]
    with pytest.raises(StoreError, match=r"\d.index.jsonl: \d attempts in .*ClientResponseError: 500"):
        fetch_indices(entries, tmp_path)
    assert len(web.requests) < 2500 and not list(tmp_path.glob("*.partial"))


def test_damage_is_found_by_the_hash(web, folder):
    sample = load_index((f"{web.url}/set",), remote=True)[3]
    tar = folder / Path(sample.shard).name
    data = bytearray(tar.read_bytes())
    data[sample.offset] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=f":{sample.offset}:{sample.key}: the SHA-256 differs"):
        read_member(sample)
    assert len(read_member(sample, verify=False)) == sample.size


def test_a_server_without_ranges_is_told_apart_and_no_shard_is_taken_whole(web):
    sample = load_index((f"{web.url}/set",), remote=True)[1]
    web.ranges = False
    with pytest.raises(DataError, match="doesn't appear to support range requests"):
        read_member(sample)
    assert (
        sum(path.endswith(".tar") and r is not None for _, path, r in web.requests) == 1
    )  # the same again would not help


# --- what is refused, and what is never told


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat 0.tar",
        "pipe://cat 0.tar",
        "reference://x",
        "simplecache::https://host/x",
        "zip://x::https://host/x.zip",
        "s3:bucket",
        "https://",
        "ssh://host/x",
    ],
)
def test_commands_and_chains_are_refused_even_where_urls_are_allowed(url):
    with pytest.raises(DataError, match="wanted a local path, or a URL of http://, .*never read"):
        load_index((url,), remote=True)


def test_urls_are_refused_unless_the_configuration_allows_them(web):
    with pytest.raises(DataError, match="only local paths are read.*data.remote=true"):
        load_index((f"{web.url}/set",))
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:s3cret@host/set",
        "https://s3cret@host/set",
        "https://host/set?sig=s3cret",
        "s3://b/set#s3cret?s3cret",
    ],
)
def test_credentials_in_urls_are_refused_and_not_repeated(url):
    with pytest.raises(DataError, match="with credentials or a query") as error:
        check_url(url)
    with pytest.raises(DataError) as not_allowed:
        load_index((url,))
    assert "s3cret" not in str(error.value) + str(not_allowed.value)
    assert check_url("hf://datasets/ann/set@main/train/") == "hf://datasets/ann/set@main/train"


def test_signed_addresses_in_a_store_s_errors_are_not_told(web):
    def signed(handler):
        if handler.path.startswith("/signed"):
            return refuse(403)(handler)
        send(handler, 302, b"", Location="/signed/00000.tar?Signature=s3cret&Expires=1")
        return True

    sample = load_index((f"{web.url}/set",), remote=True)[0]
    web.fault = signed
    with pytest.raises(DataError, match=r"403.*/signed/00000.tar\?\*\*\*") as error:
        read_member(sample)
    assert "s3cret" not in str(error.value) and "Expires" not in str(error.value)
    assert redact("x 'https://a:b@h/p?q=1' y") == "x 'https://***@h/p?***' y"


def test_a_missing_library_is_named_with_its_package(monkeypatch):
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"{scheme}:// needs a package: pip install {package}"):
            load_index((f"{scheme}://bucket/set",), remote=True)


LURES = ("pipe:touch CANARY", "file:///etc/passwd", "http://127.0.0.1:1/x", "s3://bucket/x", "memory://x")
UNSAFE = ("../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a\nb")

WATCH = """
import sys
seen = []
names = ("open", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
from lavie.data.shards.index import load_index
from lavie.data.shards.remote import check_url
from lavie.data.shards.member import read_member
import fsspec.implementations.http
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event in names else None)
samples = list(load_index((sys.argv[1],), remote=True))
assert [read_member(s) for s in samples] and samples
for event, args in seen:
    print(event, args.replace("\\n", " "))
"""


def relabel(index: Path, keys) -> None:
    """Give the first samples other keys."""
    header, *lines = map(json.loads, index.read_text().splitlines())
    for line, key in zip(lines, keys, strict=False):
        line["member"] = f"{key}.{line['member'].rpartition('.')[2]}"
        line["key"] = key
    index.write_text("".join(json.dumps(x) + "\n" for x in [header, *lines]))


def test_names_inside_an_index_open_nothing(web, folder, tmp_path):
    relabel(folder / "00000.index.jsonl", [lure.replace("CANARY", str(tmp_path / "canary")) for lure in LURES])
    command = [sys.executable, "-c", WATCH, f"{web.url}/set"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [line.split(" ", 1) for line in result.stdout.splitlines()]
    assert {event for event, _ in events} <= {"open", "socket.connect", "socket.getaddrinfo"}, result.stdout
    connected = [args for event, args in events if event.startswith("socket")]
    assert connected and all(f"'127.0.0.1', {web.port}" in args for args in connected)
    assert "/etc/passwd" not in result.stdout and not (tmp_path / "canary").exists()
    assert {path for _, path, _ in web.requests} <= {
        "/set/",
        *(f"/set/0000{n}{end}" for n in range(2) for end in (".tar", ".index.jsonl")),
    }


@pytest.mark.parametrize("key", UNSAFE)
@pytest.mark.parametrize("served", [True, False])
def test_unsafe_keys_are_refused(web, folder, key, served):
    relabel(folder / "00000.index.jsonl", [key])
    with pytest.raises(DataError, match="00000.index.jsonl, line 2: the key .* an unsafe name"):
        load_index((f"{web.url}/set" if served else str(folder),), remote=True)


@pytest.mark.parametrize("tar", [*LURES, "/etc/passwd", "../../etc/passwd"])
@pytest.mark.parametrize("served", [True, False])
def test_the_tar_that_an_index_names_is_no_url_and_no_other_file(web, folder, tar, served):
    path = folder / "00000.index.jsonl"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"tar": tar}), *lines]) + "\n")
    with pytest.raises(DataError, match="lies beside another shard"):
        load_index((f"{web.url}/set" if served else str(folder),), remote=True)
    (folder / "00000.tar").unlink()
    (folder / "00001.tar").unlink()
    (folder / "00001.index.jsonl").unlink()  # a folder of indices, whose shards lie elsewhere
    before = len(web.requests)
    with pytest.raises(DataError, match="cannot be read|its index was made for"):
        load_index((str(folder),), remote=True)
    assert len(web.requests) == before


def test_a_listing_leads_nowhere_else(web, folder):
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


def test_ranges_that_are_cut_short_are_errors(web, folder):
    size = (folder / "00000.tar").stat().st_size
    with pytest.raises(StoreError, match="3 attempts in .*: OSError: 10 of 20 bytes came"):
        read(f"{web.url}/set/00000.tar", size - 10, 20)


def test_remote_shards_are_indexed_elsewhere(web):
    result = typer.testing.CliRunner().invoke(app, ["data", "index", f"{web.url}/set"])
    assert isinstance(result.exception, DataError) and "a copy of the shards on a disk" in str(result.exception)
    assert web.requests == []
