"""A table of many samples costs little memory."""

import re
import subprocess
import sys

from lavie.bench import index as bench_index
from lavie.data.shards.index import Index
from lavie.data.shards.table import Table


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
