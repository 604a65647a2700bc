"""The compiled table: the same samples as the indices, bounded memory, never a stale or a torn one."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.bench import index as bench_index
from lavie.data.shards import compile as compile_module
from lavie.data.shards.index import Index, load_index
from lavie.data.shards.table import COLUMNS, Table
from lavie.data.shards.table_view import Selection
from lavie.errors import DataError


@pytest.fixture
def on_disk(monkeypatch):
    """Every dataset is large enough for a file."""
    monkeypatch.setattr(compile_module, "IN_MEMORY", 0)


@pytest.fixture
def folder(demo, tmp_path) -> Path:
    shutil.copytree(demo / "train", tmp_path / "train")
    return tmp_path / "train"


def test_the_file_gives_what_memory_gives(folder, on_disk, monkeypatch):
    index = load_index((str(folder),))
    table = folder / "index.table"
    assert table.is_file() and not list(folder.glob("*.partial"))
    first = table.stat()
    assert list(load_index((str(folder),))) == list(index)
    assert (table.stat().st_ino, table.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)  # kept
    table.unlink()
    monkeypatch.setattr(compile_module, "IN_MEMORY", 1000)
    assert list(load_index((str(folder),))) == list(index) == list(Index(list(index)))
    assert not table.exists()


def test_columns_and_views(demo):
    paths = (str(demo / "validation"), str(demo / "train"))
    index = load_index(paths)
    assert [s.kind for s in index] == ["video"] * len(index.videos) + ["image"] * len(index.images)
    assert index[-1] == index.images[-1] and index[:2] == tuple(index.videos)[:2]
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
    assert not index.where(np.zeros(len(index), bool)) and not index.where(np.zeros(len(index), bool)).videos
    with pytest.raises(ValueError, match="wanted bool"):
        index.where(some[1:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 99))
def test_a_selection_finds_every_row(n, share, seed):
    mask = np.random.default_rng(seed).random(n) < share
    selection = Selection(mask)
    assert (selection.mask == mask).all()
    assert [selection[i] for i in range(len(selection))] == np.flatnonzero(mask).tolist()


def test_a_changed_shard_makes_the_table_anew(folder, on_disk):
    load_index((str(folder),))
    index = folder / "00000.index.jsonl"
    before = (folder / "index.table").read_bytes()
    index.write_text(index.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    assert all(s.key.startswith("x") for s in load_index((str(folder),)))
    assert (folder / "index.table").read_bytes() != before
    tar = folder / "00000.tar"
    tar.write_bytes(tar.read_bytes() + bytes(1024))
    with pytest.raises(DataError, match="cut short or replaced"):
        load_index((str(folder),))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:500] + data[700:]])
def test_a_damaged_table_is_made_anew(folder, on_disk, damage):
    expected = list(load_index((str(folder),)))
    table = folder / "index.table"
    table.write_bytes(damage(table.read_bytes()))
    with pytest.raises(DataError, match="Delete it"):
        Table(table, folder)
    assert list(load_index((str(folder),))) == expected


def test_a_folder_that_cannot_be_written_has_its_table_in_the_cache(folder, on_disk, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lock = compile_module.one_process_per_node

    def refuse(place):
        if place == folder:
            raise PermissionError(13, "Permission denied", str(place))
        return lock(place)

    monkeypatch.setattr(compile_module, "one_process_per_node", refuse)
    expected = list(load_index((str(folder),)))
    assert not (folder / "index.table").exists()
    (table,) = (tmp_path / "cache/lavie").iterdir()
    inode = table.stat().st_ino
    assert list(load_index((str(folder),))) == expected and table.stat().st_ino == inode


LOAD = """
import sys
from lavie.data.shards import compile as compile_module
from lavie.data.shards.index import load_index
compile_module.IN_MEMORY = 0
print(len(list(load_index(sys.argv[1:]))))
"""


def test_processes_that_start_at_once_all_read_a_whole_table(folder):
    command = [sys.executable, "-c", LOAD, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["34"] * 3
    assert sorted(p.name for p in folder.glob("*table*")) == ["index.table"]


def test_an_index_goes_to_another_process_as_its_path(folder, on_disk):
    index = load_index((str(folder),))
    index = index.where(index.column("size") > 0)
    sent = pickle.dumps(index)
    assert len(sent) < 4000 and list(pickle.loads(sent)) == list(index)
    jsonl = folder / "00000.index.jsonl"
    jsonl.write_text(jsonl.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    load_index((str(folder),))
    with pytest.raises(DataError, match="was replaced"):
        pickle.loads(sent)


def test_a_lost_shard_is_named(folder):
    (folder / "00000.tar").rename(folder / "00001.tar")
    with pytest.raises(DataError, match="1 of its shards are gone.*00000.index.jsonl"):
        load_index((str(folder),))


@pytest.mark.parametrize("url", ["s3://bucket/train", "https://host/0.tar", "pipe:cat 0.tar", "file:///data"])
def test_only_local_paths_are_read(url):
    with pytest.raises(DataError, match="only local paths"):
        load_index((url,))


def test_a_table_of_many_rows_costs_little_memory(tmp_path):
    rows = 300_000
    bench_index.write(tmp_path / "index.table", rows)
    code = "import sys; from pathlib import Path; from lavie.bench.index import read; "
    code += "read(Path(sys.argv[1]), int(sys.argv[2]), 2000)"
    command = [sys.executable, "-c", code, str(tmp_path / "index.table"), str(rows)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total, before = map(float, re.findall(r"(\d+) MiB", output.splitlines()[-1]))
    # 1 bit and a column of 2 bytes a row, and their mask: a thousandth of what objects would take.
    assert total - before < 20 + rows * 10 / 2**20, output
    table = Table(tmp_path / "index.table", tmp_path)
    assert len(Index.of_tables([table]).videos) == rows - rows // 5
