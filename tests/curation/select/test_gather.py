"""The columns of all clips: what is read of units that lack a stage, and of very many units."""

import pytest

from lavie.config.curate_select import Rule, SelectConfig
from lavie.curation.select import gather
from lavie.curation.select.select import read_selection, select
from lavie.errors import DataError
from tests.curation.select import columns
from tests.curation.select.columns import FIRST, SECOND

pytest.importorskip("pyarrow")


def test_a_unit_that_a_stage_has_not_done_has_no_values_and_is_named(out, tmp_path):
    (out / "table/motion/000001.parquet").unlink()
    funnel = select(out, SelectConfig())
    assert funnel.faults == {"motion": {"missing": ["000001"]}} and funnel.kept.clips == 1
    assert {step.column: step.newly_no_value for step in funnel.steps if step.newly_no_value} == {"luma": 6}

    # That there is no duplicate is known only where somebody has looked.
    columns.write(out, 1, "motion", SECOND)
    (out / "table/dedup/000001.parquet").unlink()
    funnel = select(out, SelectConfig())
    assert funnel.kept.clips == 1 and funnel.steps[9].no_value == 6
    assert read_selection(out)["dropped_by"].to_pylist()[5] == "duplicate_of has no value"

    # Columns of an earlier cut are those of other clips; what was made of earlier columns is told of, and used.
    columns.write(out, 1, "dedup", SECOND)
    columns.write(out, 0, "cut", FIRST[1:])
    columns.write(out, 1, "caption", [row | {"caption": "other words are here"} for row in SECOND])
    funnel = select(out, SelectConfig())
    assert set(funnel.faults) == set(columns.ALL) - {"cut"}
    assert funnel.faults["align"] == {"other clips": ["000000"], "out of date": ["000001"]}
    assert funnel.faults["dedup"] == {"other clips": ["000000"]}

    for unit in (0, 1):
        (out / f"table/cut/00000{unit}.parquet").unlink()
        if not unit:
            assert select(out, SelectConfig()).uncut == ("000000",)
    with pytest.raises(DataError, match="no unit is cut: `lavie curate cut"):
        select(out, SelectConfig())


def test_many_units_are_read_once_and_again_when_a_file_changes(out, monkeypatch):
    asked = []

    class Here:
        def map(self, work, items):
            asked.append(len(items))
            return ((item, work(item), "") for item in reversed(items))  # answers come in any order

    expected = select(out, SelectConfig()), (out / "select/selection.parquet").read_bytes()
    monkeypatch.setattr(gather, "PART", 1)
    monkeypatch.setattr(gather, "LocalEngine", lambda workers: Here())
    for _ in range(2):
        assert (select(out, SelectConfig()), (out / "select/selection.parquet").read_bytes()) == expected
    assert asked == [2]
    select(out, SelectConfig(rules=(Rule(column="overlay_area", max=1, missing="keep"),)))
    columns.write(out, 1, "motion", [row | {"luma": 0.0} for row in SECOND])
    assert select(out, SelectConfig()).kept.clips == 1 and asked == [2, 2, 2]
    (out / "cache/gathered.arrow").write_bytes(b"damaged")
    assert select(out, SelectConfig()).kept.clips == 1 and asked == [2, 2, 2, 2]
