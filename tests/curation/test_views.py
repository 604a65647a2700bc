"""The views of a curation for DuckDB: which there are, and that they show the columns of each clip and of no other."""

import re

import pytest

from lavie.config.curate_select import SelectConfig
from lavie.curation.select.select import select
from lavie.curation.views import VIEWS
from lavie.data.shards.index_file import Rejected, write_rejected
from tests.curation.select import columns

pa = pytest.importorskip("pyarrow")
TWINS = [columns.clip("m", luma=50.0), columns.clip("m", luma=60.0, film="1.mp4"), columns.clip("n", luma=70.0)]
"""Clips of one unit, two of one name: their film lies twice below SRC."""


@pytest.fixture
def out(tmp_path):
    """Two units, cut, measured and hashed; of the second one a film was refused."""
    with columns.in_place():
        out = columns.list_units(tmp_path, 2)
        for unit, rows in enumerate((columns.FIRST, TWINS)):
            for stage in ("cut", "motion", "hash"):
                columns.write(out, unit, stage, rows)
        listed = out / "rejected/cut/000001.jsonl"
        listed.parent.mkdir(parents=True)
        write_rejected(listed, [Rejected("bad.mp4", "cannot be split", "why it's so")])
        yield out


def names(out):
    return re.findall(r'^CREATE OR REPLACE VIEW "(.+)" AS$', (out / VIEWS).read_text(), re.M)


def test_there_is_a_view_for_each_stage_that_was_done(out):
    select(out, SelectConfig())
    assert names(out) == ["cut", "motion", "hash", "selection", "clips", "rejected"]
    written = (out / VIEWS).stat().st_mtime_ns
    select(out, SelectConfig(min_side=400))
    assert (out / VIEWS).stat().st_mtime_ns == written
    columns.write(out, 0, "dedup", columns.FIRST)
    (out / "table/score-mine").mkdir()
    (out / "table/score-mine/000000.parquet").write_bytes((out / "table/dedup/000000.parquet").read_bytes())
    select(out, SelectConfig())
    assert names(out)[2:5] == ["hash", "dedup", "score-mine"]


def rows_of(out, query):
    """Return the rows of a query in a fresh DuckDB that has read the views, each as a mapping."""
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as database:
        database.execute(f"SET file_search_path = '{out}'")
        database.execute((out / VIEWS).read_text())
        found = database.execute(query)
        heads = [column[0] for column in found.description]
        return [dict(zip(heads, row, strict=True)) for row in found.fetchall()]


def test_clips_have_the_columns_of_all_stages_once(out):
    select(out, SelectConfig())
    found = rows_of(out, "FROM clips ORDER BY unit, number")
    expected = columns.FIRST + TWINS
    assert [(row["unit"], row["number"]) for row in found] == [("000000", i) for i in range(5)] + [
        ("000001", i) for i in range(3)
    ]
    for name in ("clip", "film", "frames", "luma", "overlay"):
        assert [row[name] for row in found] == [row[name] for row in expected], name
    assert {(row["clip"], row["dropped_by"]) for row in found if not row["keep"]} == {
        ("b", "frames >= 16"),
        ("c", "short_side >= 720"),
        ("d", "aspect >= 1.2"),
        ("e", "16 <= luma <= 235"),
    }
    assert rows_of(out, "SELECT clip FROM selection WHERE unit = '000001' AND number = 2") == [{"clip": "n"}]


def test_columns_of_other_clips_are_null(out):
    columns.write(out, 0, "cut", [columns.clip("new"), *columns.FIRST[1:3]])
    select(out, SelectConfig())
    found = rows_of(out, "SELECT clip, luma FROM clips WHERE unit = '000000' ORDER BY number")
    assert found == [{"clip": "new", "luma": None}, {"clip": "b", "luma": 1.0}, {"clip": "c", "luma": 100.0}]


def test_what_was_refused_is_a_view_too(out):
    select(out, SelectConfig())
    [row] = rows_of(out, "FROM rejected")
    assert row == {
        "stage": "cut",
        "unit": "000001",
        "name": "bad.mp4",
        "reason": "cannot be split",
        "detail": "why it's so",
    }
