"""Indices of foreign shards: made in place, made again where something changed, in processes, and in a folder apart."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from lavie.data.prepare import indexing
from lavie.data.prepare.indexing import make_indices
from lavie.data.shards.index import load_index
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from tests.data.prepare.foreign import foreign_folder, foreign_shard, keys

pytestmark = pytest.mark.usefixtures("reversed_folders")


@pytest.fixture
def folder(tmp_path) -> Path:
    return foreign_folder(tmp_path / "set")


def test_foreign_shards_are_indexed_and_not_touched(folder):
    before = {tar: tar.read_bytes() for tar in folder.glob("*.tar")}
    report = make_indices([folder])
    assert {tar: tar.read_bytes() for tar in folder.glob("*.tar")} == before
    assert keys(folder) == ["a", "v1.0_clip", "c"]
    sample = load_index((str(folder),))[1]
    assert (sample.caption, sample.codec, sample.frames, sample.vfr) == ("clip v1.0_clip", "h264", 4, False)
    tar = before[Path(sample.shard)]
    assert tar[sample.caption_offset : sample.caption_offset + sample.caption_size] == b"clip v1.0_clip"
    assert read_member(sample) == tar[sample.offset : sample.offset + sample.size]
    assert [(s.videos, s.kept, s.fault) for s in report.shards] == [(2, False, None), (1, False, None)]
    listed = [json.loads(line) for line in (folder / "index.rejected.jsonl").read_text().splitlines()]
    assert [(r["name"], r["reason"]) for r in listed] == [
        ("00000.tar:x.pkl", "unknown extension"),
        ("00000.tar:b.mp4", "no caption"),
    ]


def test_only_what_changed_is_indexed_again(folder):
    first = make_indices([folder])
    again = make_indices([folder])
    assert [s.kept for s in again.shards] == [True, True]
    assert again.rejected == first.rejected  # kept shards are reported in full
    foreign_shard(folder / "00001.tar", "d", "e")
    assert [s.kept for s in make_indices([folder]).shards] == [True, False]
    assert keys(folder) == ["a", "v1.0_clip", "d", "e"]
    (folder / "00001.tar").unlink()
    assert make_indices([folder]).orphans == (str(folder / "00001.index.jsonl"),)


def test_an_interrupted_run_goes_on(folder, monkeypatch):
    def stop(tar):
        if tar.name == "00001.tar":
            raise KeyboardInterrupt
        return index_shard(tar)

    index_shard = indexing.index_shard
    monkeypatch.setattr(indexing, "index_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        make_indices([folder])
    assert sorted(p.name for p in folder.glob("*.index*")) == ["00000.index.jsonl"]
    monkeypatch.undo()
    assert [s.kept for s in make_indices([folder]).shards] == [True, False]


def test_a_damaged_shard_stops_nothing_and_is_named(folder):
    make_indices([folder])
    tar = folder / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    report = make_indices([folder], workers=2)
    assert [s.tar for s in report.damaged] == [str(tar)]
    assert "00000.tar" in report.damaged[0].fault
    assert report.shards[1].kept
    assert not (folder / "00000.index.jsonl").exists()


def die(tar: Path, out: Path | None):
    if tar.name == "00000.tar":
        os.kill(os.getpid(), 9)
    return indexing.ShardReport(str(tar), videos=1)


def test_a_process_that_dies_is_put_down_to_its_shard(folder, monkeypatch):
    foreign_shard(folder / "00002.tar", "f")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method, get=multiprocessing.get_context: get("fork"))
    monkeypatch.setattr(indexing, "_index_one", die)
    report = make_indices([folder], workers=2)
    assert [(Path(s.tar).name, s.fault is None) for s in report.shards] == [
        ("00000.tar", False),
        ("00001.tar", True),
        ("00002.tar", True),
    ]


def test_indices_in_a_folder_of_their_own(folder, tmp_path):
    before = sorted(folder.iterdir())
    out = tmp_path / "indices"
    make_indices([folder], out=out)
    assert sorted(folder.iterdir()) == before
    assert keys(out) == ["a", "v1.0_clip", "c"]
    assert [s.kept for s in make_indices([folder], out=out).shards] == [True, True]
    (folder / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar: cannot be read"):
        load_index((str(out),))
    assert make_indices([folder], out=out).orphans == (str(out / "00001.index.jsonl"),)


def test_shards_that_would_share_an_index_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(DataError, match="would share the index"):
        make_indices([folder, tmp_path / "other"], out=tmp_path / "out")
    with pytest.raises(DataError, match=r"wanted a \.tar file or a folder"):
        make_indices([tmp_path])


def test_indices_that_lost_their_shards_are_named_in_order(folder):
    make_indices([folder])
    index = (folder / "00001.index.jsonl").read_bytes()
    for number in (7, 4, 5, 9, 6):
        (folder / f"0000{number}.index.jsonl").write_bytes(index)
    assert make_indices([folder]).orphans == tuple(str(folder / f"0000{n}.index.jsonl") for n in (4, 5, 6, 7, 9))
