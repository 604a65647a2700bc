"""Choosing clips: the funnel of a table made by hand, what is said of missing columns, and what is left alone."""

import json

import numpy as np
import pytest
import yaml

from lavie.cli import main as cli
from lavie.config.curate_select import DEFAULT_RULES, Rule, SelectConfig
from lavie.curation.select import gather
from lavie.curation.select.rules import survivors
from lavie.curation.select.select import read_selection, select
from lavie.errors import ConfigError, DataError
from tests.curation.select import columns

pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def stages():
    """Let the stages be those of the hand-made columns."""
    with columns.in_place():
        yield


def clip(name: str, **values) -> dict:
    """A clip of 36 seconds, a hundredth of an hour, that all default rules keep, but for the given values."""
    row = dict(clip=name, film="0.mp4", category="cats", frames=100, fps=25.0, duration=36.0, width=1280, height=720)
    row |= dict(method="copy", bytes=10, luma=100.0, frozen=0.0, flow_mean=0.01, overlay=False, overlay_area=0.0)
    row |= dict(text_area=0.0, aesthetic_mean=5.0, aesthetic_min=4.5, clip_score=0.3)
    return row | dict(caption=f"this is {name}", words=3) | values


FIRST = [
    clip("a"),
    clip("b", frames=15, luma=1.0),
    clip("c", width=719, height=400, duration=72.0),
    clip("d", width=800, height=800, overlay=None),
    clip("e", luma=236.0, words=None, caption=None, clip_score=None),
]
SECOND = [
    clip("f", film="1.mp4", overlay=None),
    clip("g", film="1.mp4", overlay=True, words=None, caption=None, clip_score=None),
    clip("h", film="1.mp4", duplicate_of="a"),
    clip("i", film="1.mp4", words=2, clip_score=0.1),
    clip("j", film="1.mp4", words=None, caption=None, clip_score=None),
    clip("k", film="1.mp4", clip_score=float("nan"), category="dogs"),
]
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


@pytest.fixture
def out(tmp_path):
    """Two units, of which every stage is done."""
    out = columns.list_units(tmp_path, 2)
    for unit, rows in enumerate((FIRST, SECOND)):
        for stage in columns.ALL:
            columns.write(out, unit, stage, rows)
    return out


def test_the_funnel_of_a_table_made_by_hand(out):
    funnel = select(out, SelectConfig())
    found = read_selection(out)
    assert found["clip"].to_pylist() == list("abcdefghijk")
    assert found["unit"].to_pylist() == ["000000"] * 5 + ["000001"] * 6
    assert dict(zip("abcdefghijk", found["dropped_by"].to_pylist(), strict=True)) == dict.fromkeys("af", "") | DROPPED
    assert found["keep"].to_pylist() == [name in "af" for name in "abcdefghijk"]
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
    assert {step.column: step.no_value for step in funnel.steps if step.no_value} == {
        "overlay": 2, "duplicate_of": 10, "words": 3, "clip_score": 4,
    }  # fmt: skip
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


def test_default_rules_of_what_nobody_measured_are_named_and_not_applied(tmp_path):
    out = columns.list_units(tmp_path, 1)
    rows = [clip(name, aesthetic_mean=None, aesthetic_min=None) for name in "ab"]
    for stage in ("cut", "motion", "clip"):
        columns.write(out, 0, stage, rows)
    funnel = select(out, SelectConfig())
    assert [step.column for step in funnel.steps] == ["frames", "short_side", "aspect", "luma", "frozen", "flow_mean"]
    assert len(funnel.not_measured) == 6 and "aesthetic_mean >= 4" in funnel.not_measured
    assert funnel.faults["hash"] == {"missing": ["000000"]} and funnel.kept.clips == 2
    with pytest.raises(ConfigError, match=r"text_area is a column of text, .* no unit: `lavie curate score --ocr`"):
        select(out, SelectConfig(rules=(Rule(column="text_area", max=0.1),)))
    with pytest.raises(ConfigError, match="no stage makes a column text_aera; did you mean text_area"):
        select(out, SelectConfig(rules=(Rule(column="text_aera", max=0.1),)))


def test_a_unit_that_a_stage_has_not_done_has_no_values_and_is_named(out, tmp_path):
    (out / "table/motion/000001.parquet").unlink()
    funnel = select(out, SelectConfig())
    assert funnel.faults == {"motion": {"missing": ["000001"]}} and funnel.kept.clips == 1
    assert {step.column: step.newly_no_value for step in funnel.steps if step.newly_no_value} == {"luma": 6}

    # Columns of an earlier cut are those of other clips; what was made of earlier columns is told of, and used.
    columns.write(out, 1, "motion", SECOND)
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
    assert "1 clips pass the rules before, and have no value in words" in text
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
