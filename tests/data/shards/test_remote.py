"""Files behind URLs are read through faults that pass; faults that stay are named, and no secret is told."""

import hashlib
import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.data.shards.remote import StoreError, check_url, read_range, redact
from lavie.errors import DataError
from tests.data.shards.web import cut, delay, first_times, refuse, send

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'lavie[remote]'")


def described(samples):
    """Return the keys, offsets, hashes and shards of samples."""
    return [(sample.key, sample.offset, sample.sha256, sample.shard) for sample in samples]


def described_at(samples, url):
    """Return what `described` gives for samples of a local folder that is served at a URL."""
    return [(s.key, s.offset, s.sha256, f"{url}/{Path(s.shard).name}") for s in samples]


@pytest.mark.parametrize("scheme", ("memory", "file", "http"))
def test_every_member_is_read_by_its_range(web, served_folder, scheme):
    import fsspec

    urls = {"memory": f"memory://{served_folder.name}", "file": f"file://{served_folder}", "http": f"{web.url}/set"}
    url = urls[scheme]
    if scheme == "memory":
        fsspec.filesystem("memory").put(f"{served_folder}/", f"/{served_folder.name}/", recursive=True)
    index, local = load_index((url,), remote=True), load_index((str(served_folder),))
    assert described(index) == described_at(local, url)
    assert [read_member(s) for s in index] == [read_member(s) for s in local]
    single = load_index((f"{url}/00001.tar",), remote=True)
    assert described(single) == described_at(load_index((str(served_folder / "00001.tar"),)), url)


def test_a_process_that_was_forked_has_its_own_connection(web):
    (sample, *_) = load_index((f"{web.url}/set",), remote=True)
    expected = read_member(sample)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(read_member, [sample] * 6).get(60) == [expected] * 6


@pytest.mark.slow
@pytest.mark.parametrize("fault", (refuse(503), refuse(429), cut, delay(3)))
def test_faults_that_pass_change_nothing(web, fault):
    samples = load_index((f"{web.url}/set",), remote=True)[:2]
    expected = [read_member(s) for s in samples]
    web.fault = first_times(2, fault)
    assert [read_member(s, timeout=6) for s in samples] == expected


def test_a_silent_server_costs_bounded_time(web):
    url, start = f"{web.url}/set", time.monotonic()
    sample = load_index((url,), remote=True)[0]
    web.fault = delay(60)
    with pytest.raises(DataError, match=f":{sample.offset}:{sample.key}: cannot be read: .*no answer within 0.3 s"):
        read_member(sample, timeout=1.8)
    assert time.monotonic() - start < 10
    web.fault = lambda handler: False
    assert hashlib.sha256(read_member(sample)).hexdigest() == sample.sha256  # and it is read when it answers again


def test_damage_is_found_by_the_hash(web, served_folder):
    sample = load_index((f"{web.url}/set",), remote=True)[3]
    tar = served_folder / Path(sample.shard).name
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


def test_ranges_that_are_cut_short_are_errors(web, served_folder):
    size = (served_folder / "00000.tar").stat().st_size
    with pytest.raises(StoreError, match=r"3 attempts in .*: OSError: 10 of 20 bytes came"):
        read_range(f"{web.url}/set/00000.tar", size - 10, 20, 5.0)


@pytest.mark.parametrize(
    "url",
    (
        "pipe:cat 0.tar",
        "pipe://cat 0.tar",
        "reference://x",
        "simplecache::https://host/x",
        "zip://x::https://host/x.zip",
        "s3:bucket",
        "https://",
        "ssh://host/x",
    ),
)
def test_commands_and_chains_are_refused_even_where_urls_are_allowed(url):
    with pytest.raises(DataError, match=r"wanted a local path, or a URL of http://, .*never read"):
        load_index((url,), remote=True)


def test_urls_are_refused_unless_the_configuration_allows_them(web):
    with pytest.raises(DataError, match=r"only local paths are read.*data.remote=true"):
        load_index((f"{web.url}/set",))
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    (
        "https://ann:s3cret@host/set",
        "https://s3cret@host/set",
        "https://host/set?sig=s3cret",
        "s3://b/set#s3cret?s3cret",
    ),
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
    assert "s3cret" not in str(error.value)
    assert "Expires" not in str(error.value)
    assert redact("x 'https://a:b@h/p?q=1' y") == "x 'https://***@h/p?***' y"


def test_a_missing_library_is_named_with_its_package(monkeypatch):
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"{scheme}:// needs a package: pip install {package}"):
            load_index((f"{scheme}://bucket/set",), remote=True)
