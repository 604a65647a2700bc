"""Members are read by offset and verified, and few shards are open at once."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavie.data.shards.index import load_index
from lavie.data.shards.member import MAX_OPEN, read_member
from lavie.errors import DataError


def test_one_flipped_bit_is_found_in_every_member(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    tar = tmp_path / "train" / "00000.tar"
    samples = load_index((str(tmp_path / "train"),))
    data = bytearray(tar.read_bytes())
    rng = np.random.default_rng(0)
    for sample in samples:
        data[sample.offset + rng.integers(sample.size)] ^= 1 << rng.integers(8)
    tar.write_bytes(data)
    for sample in samples:
        with pytest.raises(DataError, match=f":{sample.offset}:{sample.key}: the SHA-256 differs"):
            read_member(sample)


def test_unverified_reads_give_the_bytes_as_they_are(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    sample = load_index((str(tmp_path / "train"),))[0]
    good = read_member(sample)
    tar = tmp_path / "train" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[sample.offset] ^= 1
    tar.write_bytes(data)
    assert read_member(sample, verify=False) == bytes([good[0] ^ 1]) + good[1:]


def test_a_shard_that_is_mended_is_read_again(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    tar = tmp_path / "train" / "00000.tar"
    whole = tar.read_bytes()
    sample = load_index((str(tmp_path / "train"),))[0]
    tar.write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match="SHA-256 differs"):
        read_member(sample)
    (tmp_path / "copy").write_bytes(whole)
    (tmp_path / "copy").replace(tar)
    assert len(read_member(sample)) == sample.size


def test_few_shards_are_open_at_once(demo, tmp_path):
    shutil.copytree(demo / "train", tmp_path / "train")
    sample = load_index((str(tmp_path / "train"),))[0]
    for i in range(2 * MAX_OPEN):
        (tmp_path / f"{i}.tar").hardlink_to(sample.shard)
        read_member(replace(sample, shard=str(tmp_path / f"{i}.tar")))
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and alive(fd)]
    assert sum(link.startswith(str(tmp_path)) for link in links) == MAX_OPEN


def alive(fd: str) -> bool:
    """Return whether a file descriptor of this process is open."""
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_short_reads_and_lost_shards_are_named(demo):
    sample = load_index((str(demo / "train"),))[0]
    end = Path(sample.shard).stat().st_size
    with pytest.raises(DataError, match=f"{sample.key}: 10 of {sample.size} bytes"):
        read_member(replace(sample, offset=end - 10))
    with pytest.raises(DataError, match="cannot be read"):
        read_member(replace(sample, shard=sample.shard + ".gone"))
