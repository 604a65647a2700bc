"""A table is refused when it is damaged, and costs little memory however many rows it has."""

import io
import json
import re
import subprocess
import sys

import pytest

from lavie.bench import index as bench_index
from lavie.data.shards.index import Index, load_index
from lavie.data.shards.table import MAGIC, TRAILER, VERSION, Table, TableWriter
from lavie.errors import DataError


def with_description(table: bytes, change) -> bytes:
    """Return a table with another description."""
    length, _ = TRAILER.unpack(table[-TRAILER.size :])
    start = len(table) - TRAILER.size - length
    description = json.dumps(change(json.loads(table[start : start + length]))).encode()
    return table[:start] + description + TRAILER.pack(len(description), MAGIC)


@pytest.mark.parametrize(
    "damage",
    (
        lambda table: b"",
        lambda table: table[:-1],
        lambda table: table[100:],
        lambda table: table + TRAILER.pack(1 << 40, MAGIC),
        lambda table: with_description(table, lambda description: description | {"version": VERSION + 1}),
        lambda table: with_description(table, lambda description: description | {"video": "many"}),
        lambda table: with_description(table, lambda description: description | {"texts": 0}),
        lambda table: with_description(table, lambda description: []),
    ),
)
def test_a_damaged_table_is_refused(train_copy, on_disk, damage):
    index = list(load_index((str(train_copy),)))
    data = (train_copy / "index.table").read_bytes()
    assert Table(data, train_copy).row(0)["key"] == index[0].key
    with pytest.raises(DataError, match=r"table of .* cannot be read"):
        Table(damage(data), train_copy)


def test_a_row_that_points_out_of_the_table_is_an_error(train_copy, on_disk):
    load_index((str(train_copy),))
    data = bytearray((train_copy / "index.table").read_bytes())
    data[16:24] = (1 << 40).to_bytes(8, "little")  # the place of the first row's text
    table = Table(bytes(data), train_copy)
    assert table.row(1)["key"]
    with pytest.raises(DataError, match="row 0: "):
        table.row(0)


def test_a_table_of_fewer_rows_than_announced_is_no_table():
    writer = TableWriter(io.BytesIO(), 3, 1)
    with pytest.raises(AssertionError, match="announced"):
        writer.close(["0.tar"], None)


@pytest.mark.slow
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
