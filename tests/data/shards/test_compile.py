"""A table is compiled when it is missing, stale or damaged, whole or not at all, where it can be written."""

import subprocess
import sys

import pytest

from lavie.data.shards import compile as compile_module
from lavie.data.shards.index import Index, load_index
from lavie.data.shards.table import Table
from lavie.errors import DataError


def test_the_file_gives_what_memory_gives(train_copy, on_disk, monkeypatch):
    index = load_index((str(train_copy),))
    table = train_copy / "index.table"
    assert table.is_file()
    assert not list(train_copy.glob("*.partial"))
    first = table.stat()
    assert list(load_index((str(train_copy),))) == list(index)
    assert (table.stat().st_ino, table.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)  # kept
    table.unlink()
    monkeypatch.setattr(compile_module, "IN_MEMORY", 1000)
    assert list(load_index((str(train_copy),))) == list(index) == list(Index(list(index)))
    assert not table.exists()


def test_a_changed_shard_makes_the_table_anew(train_copy, on_disk):
    load_index((str(train_copy),))
    index = train_copy / "00000.index.jsonl"
    before = (train_copy / "index.table").read_bytes()
    index.write_text(index.read_text().replace('"key": "', '"key": "x').replace('"member": "', '"member": "x'))
    assert all(s.key.startswith("x") for s in load_index((str(train_copy),)))
    assert (train_copy / "index.table").read_bytes() != before
    tar = train_copy / "00000.tar"
    tar.write_bytes(tar.read_bytes() + bytes(1024))
    with pytest.raises(DataError, match="cut short or replaced"):
        load_index((str(train_copy),))


@pytest.mark.parametrize("damage", (lambda data: data[:-1], lambda data: b"", lambda data: data[:500] + data[700:]))
def test_a_damaged_table_is_made_anew(train_copy, on_disk, damage):
    expected = list(load_index((str(train_copy),)))
    table = train_copy / "index.table"
    table.write_bytes(damage(table.read_bytes()))
    with pytest.raises(DataError, match="Delete it"):
        Table(table, train_copy)
    assert list(load_index((str(train_copy),))) == expected


def test_a_folder_that_cannot_be_written_has_its_table_in_the_cache(train_copy, on_disk, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lock = compile_module.one_process_per_node

    def refuse(place):
        if place == train_copy:
            raise PermissionError(13, "Permission denied", str(place))
        return lock(place)

    monkeypatch.setattr(compile_module, "one_process_per_node", refuse)
    expected = list(load_index((str(train_copy),)))
    assert not (train_copy / "index.table").exists()
    (table,) = (tmp_path / "cache/lavie").iterdir()
    inode = table.stat().st_ino
    assert list(load_index((str(train_copy),))) == expected
    assert table.stat().st_ino == inode


LOAD = """
import sys
from lavie.data.shards import compile as compile_module
from lavie.data.shards.index import load_index
compile_module.IN_MEMORY = 0
print(len(list(load_index(sys.argv[1:]))))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_all_read_a_whole_table(train_copy):
    command = [sys.executable, "-c", LOAD, str(train_copy)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["34"] * 3
    assert sorted(p.name for p in train_copy.glob("*table*")) == ["index.table"]
