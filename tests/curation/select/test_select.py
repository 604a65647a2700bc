"""Choosing clips: the funnel of a table made by hand, what is said of missing columns, and what is left alone."""

import json

import numpy as np
import pytest
import yaml

from lavie.cli import main as cli
from lavie.config.curate_select import DEFAULT_RULES, Rule, SelectConfig
from lavie.curation.select.rules import survivors
from lavie.curation.select.select import read_selection, select
from lavie.errors import ConfigError
from tests.curation.select import columns

pa = pytest.importorskip("pyarrow")


DROPPED = {
    "b": "frames >= 16",
    "c": "short_side >= 720",
    "d": "aspect >= 1.2",
    "e": "16 <= luma <= 235",
    "g": "overlay is false",
    "h": "duplicate_of is empty",
    "i": "words >= 3",
    "j": "words has no value",
    "k": "clip_score has no value",
}


def test_the_funnel_of_a_table_made_by_hand(out):
    funnel = select(out, SelectConfig())
    found = read_selection(out)
    assert found["clip"].to_pylist() == list("abcdefghijk")
    assert found["unit"].to_pylist() == ["000000"] * 5 + ["000001"] * 6
    assert dict(zip("abcdefghijk", found["dropped_by"].to_pylist(), strict=True)) == dict.fromkeys("af", "") | DROPPED
    assert found["keep"].to_pylist() == [name in "af" for name in "abcdefghijk"]
    cut = ["film", "category", "keep", "dropped_by", "frames", "width", "height", "fps", "duration", "bytes", "method"]
    scores = [rule.column for rule in DEFAULT_RULES[3:]]
    own = {"unit", "clip", *cut, *scores, "aesthetic_min", "caption", "short_side", "aspect"}
    assert set(found.column_names) == own and found.column_names[:6] == ["unit", "clip", *cut[:4]]
    assert found["caption"].to_pylist()[:2] == ["this is a", "this is b"] and found["short_side"][2].as_py() == 400

    steps = {step.rule: step for step in funnel.steps}
    assert list(steps) == [rule.name for rule in DEFAULT_RULES]
    left = [11, 10, 9, 8, 7, 7, 7, 6, 6, 6, 5, 3, 2][1:]
    assert [step.left.clips for step in funnel.steps] == left
    assert (funnel.all.clips, funnel.all.hours, funnel.kept.clips, funnel.kept.hours) == (11, 0.12, 2, 0.02)
    assert funnel.steps[0].left.hours == 0.11 and funnel.steps[1].left.hours == 0.09
    alone = {"frames": 1, "short_side": 1, "aspect": 1, "luma": 2, "overlay": 1, "duplicate_of": 1, "words": 1}
    assert {step.column: step.alone.clips for step in funnel.steps if step.alone.clips} == alone | {"clip_score": 1}
    assert steps["short_side >= 720"].alone.hours == 0.02
    missing = {step.column: step.no_value for step in funnel.steps if step.no_value}
    assert missing == {"overlay": 2, "words": 3, "clip_score": 4}
    assert [step.stage for step in funnel.steps][2:5] == ["cut", "motion", "motion"]
    assert (steps["words >= 3"].newly_no_value, steps["clip_score >= 0.2"].newly_no_value) == (1, 1)
    assert not (funnel.not_measured or funnel.uncut or funnel.faults)

    written = json.loads((out / "select/funnel.json").read_text())
    assert [step["left"]["clips"] for step in written["steps"]] == left
    rules = yaml.safe_load((out / "select/rules.yaml").read_text())["rules"]
    assert rules[3] == {"column": "luma", "min": 16.0, "max": 235.0} and len(rules) == len(DEFAULT_RULES)


def test_another_threshold_writes_the_selection_alone_and_the_same_one_the_same_bytes(out):
    select(out, SelectConfig())
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    before = {path.name: path.read_bytes() for path in (out / "select").iterdir()}
    assert select(out, SelectConfig(min_side=400)).kept.clips == 3
    changed = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == set((out / "select").iterdir())
    select(out, SelectConfig())
    assert {path.name: path.read_bytes() for path in (out / "select").iterdir()} == before


def test_the_selection_holds_what_shards_need_whatever_the_rules(out):
    select(out, SelectConfig(rules=(Rule(column="category", among=("dogs",)),)))
    found = read_selection(out)
    rest = [
        "frames",
        "fps",
        "duration",
        "width",
        "height",
        "bytes",
        "method",
        "aesthetic_mean",
        "aesthetic_min",
        "caption",
        "words",
        "clip_score",
    ]
    lead = ["unit", "clip", "film", "category", "keep", "dropped_by"]
    assert found.column_names[:6] == lead and set(found.column_names) == {*lead, *rest}
    assert found.filter(found["keep"])["clip"].to_pylist() == ["k"]


def test_default_rules_of_what_nobody_measured_are_named_and_not_applied(tmp_path):
    out = columns.list_units(tmp_path, 1)
    rows = [columns.clip(name, aesthetic_mean=None, aesthetic_min=None) for name in "ab"]
    for stage in ("cut", "motion", "clip"):
        columns.write(out, 0, stage, rows)
    funnel = select(out, SelectConfig())
    assert [step.column for step in funnel.steps] == ["frames", "short_side", "aspect", "luma", "frozen", "flow_mean"]
    assert len(funnel.not_measured) == 6 and "aesthetic_mean >= 4" in funnel.not_measured
    assert not funnel.faults and funnel.kept.clips == 2
    with pytest.raises(ConfigError, match=r"text_area is a column of text, .* no unit: `lavie curate score --ocr`"):
        select(out, SelectConfig(rules=(Rule(column="text_area", max=0.1),)))
    with pytest.raises(ConfigError, match="no stage makes a column text_aera; did you mean text_area"):
        select(out, SelectConfig(rules=(Rule(column="text_aera", max=0.1),)))
    with pytest.raises(ConfigError, match=r"no stage makes a column x; there are clip, film, .*, short_side, aspect"):
        select(out, SelectConfig(rules=(Rule(column="x", max=0.1),)))


def test_survivors_of_every_kind_of_rule():
    table = pa.table(
        {
            "x": pa.array([0.1, 0.2, np.nan, None], pa.float32()),
            "n": pa.array([1, 2, 3, None], pa.int32()),
            "flag": [True, False, None, True],
            "kind": ["a", "b", "", None],
            "crop": [[1], None, None, [2]],
        }
    )

    def dropped(**rule) -> str:
        """One letter for each row: kept, dropped for its value, or for none."""
        found = survivors(table, [Rule(**rule)]).to_pylist()
        return "".join("k" if not name else "n" if name.endswith("no value") else "d" for name in found)

    assert dropped(column="x", max=0.1) == "kdnn"  # 0.1 as it is stored, in 32 bits, is above 0.1
    assert dropped(column="x", min=0.2, missing="keep") == "dkkk"
    assert dropped(column="n", min=1.5, max=2) == "dkdn"
    assert dropped(column="flag", equals=True) == "kdnk" and dropped(column="flag", equals=False) == "dknd"
    assert dropped(column="kind", among=["a", ""]) == "kdkn"
    assert dropped(column="crop", empty=True) == "dkkd" and dropped(column="kind", empty=False) == "kkkd"
    for rule in (dict(column="kind", min=1), dict(column="n", equals=True), dict(column="x", among=["a"])):
        with pytest.raises(ConfigError, match=f"select.rules: {rule['column']} is of type .* wanted"):
            dropped(**rule)
    with pytest.raises(ConfigError, match=r"crop is of type list.* wanted empty"):
        dropped(column="crop", max=1)


@pytest.mark.parametrize(
    "values, message",
    (
        ([{"column": "luma"}], "sets none of min or max"),
        ([{"column": "luma", "min": 1, "equals": True}], "sets more than one of"),
        ([{"column": "luma", "min": 2, "max": 1}], "min 2 of luma is above its max 1"),
        ([{"column": "luma", "empty": True, "missing": "keep"}], "empty already says"),
        ([{"column": "luma", "min": 1}, {"column": "luma", "max": 9}], "luma has two rules: join them"),
        ([{"column": "luma", "mni": 1}], "mni"),
        ([{"column": "luma", "min": "high"}], "wanted a number"),
    ),
)
def test_rules_that_cannot_be_meant_are_refused(out, tmp_path, call, values, message):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": values}))
    assert message in call(cli.main, "curate", "select", str(out), str(tmp_path / "rules.yaml"))[0]
    assert not (out / "select").exists() and not (out / "curate.yaml").exists()


def test_the_command_prints_the_funnel_and_keeps_its_rules(out, tmp_path, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, text = call(cli.main, "curate", "select", str(out), "--min-side", "400")
    assert code == 0 and "short_side >= 400" in text and "duplicate_of is empty" in text
    assert "1 clips pass the rules before, and have no value in words (of `lavie curate caption`)" in text
    rules = "rules:\n- {column: short_side, min: 500}\n- {column: category, among: [cats]}\n"
    (tmp_path / "rules.yaml").write_text(rules)
    code, text = call(cli.main, "curate", "select", str(out), str(tmp_path / "rules.yaml"))
    assert code == 0 and "short_side >= 500" in text and "category is cats" in text and "luma" not in text
    assert call(cli.main, "curate", "select", str(out))[1] == text
    assert read_selection(out)["keep"].to_pylist() == [name not in "ck" for name in "abcdefghijk"]
    code, text = call(cli.main, "curate", "select", str(out), "--min-side", "400")
    assert code == 0 and "short_side >= 400" in text and "category is cats" in text
    (tmp_path / "rules.yaml").write_text("rules:\n- {column: short_side, min: 500}\n")
    assert "short_side >= 500" in call(cli.main, "curate", "select", str(out), str(tmp_path / "rules.yaml"))[1]
