"""Scorers of other packages: installed as a package is, run as a stage, and named when they fail."""

import importlib
import re
import sys

import pytest

from lavie.config.curate_score import ScorerConfig
from lavie.config.curate_select import SelectConfig
from lavie.curation import stage as stages
from lavie.curation.run import run_stage
from lavie.curation.score.plugins import GROUP, installed_scorers, plugin_stage
from lavie.curation.select.select import read_selection, select
from lavie.errors import ConfigError
from tests.curation.here import Here
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving

CODE = """
import numpy as np

class Light:
    columns = ("light", "spread")
    frames = 2
    version = 3

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, frames, row):
        assert len(frames) == 2 and row["film"]
        return {"light": self.scale * frames.mean(), "spread": None}

class Broken(Light):
    columns = ("broken",)

    def __call__(self, frames, row):
        if row["film"] == "b.mp4":
            raise ZeroDivisionError("no such face")
        return {"broken": np.float32(1)}

class Short(Light):
    columns = ("only_short", "missing")

    def __init__(self):
        pass

    def __call__(self, frames, row):
        return {"only_short": 1.0}

class Unmade(Broken):
    def __init__(self, model):
        raise FileNotFoundError(model)

class Upper(Light):
    columns = ("NSFW",)

class Twice(Light):
    columns = ("own", "own")

class Blank(Light):
    columns = ("a b",)

class Empty(Light):
    columns = ()

class Taken(Light):
    columns = ("own", "luma")

class Kept(Light):
    columns = ("keep",)
"""
POINTS = {
    name: f"scorers_of_a_test:{name.title()}"
    for name in ("light", "broken", "short", "unmade", "upper", "twice", "blank", "empty", "taken", "kept")
}
POINTS |= {"absent": "scorers_of_no_test:Light"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of scorers, as pip lays it down."""
    site = tmp_path / "site"
    facts = site / "scorers_of_a_test-1.dist-info"
    facts.mkdir(parents=True)
    (site / "scorers_of_a_test.py").write_text(CODE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: scorers-of-a-test\nVersion: 1\n")
    lines = "\n".join(f"{name} = {place}" for name, place in POINTS.items())
    (facts / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    stages.find_stage.cache_clear()
    yield
    stages.find_stage.cache_clear()
    sys.modules.pop("scorers_of_a_test", None)


@pytest.fixture
def out(tmp_path):
    """Two units: a film with a clip that cannot be decoded, and a good one."""
    clips = [moving(0, 4), MadeClip(moving(0, 4), data=b"no video")]
    return make_cut(tmp_path, {"a.mp4": clips, "b.mp4": [moving(1, 4) // 2]}, films_a_unit=1)


def test_a_scorer_is_a_stage_with_its_columns(installed, out):
    assert set(installed_scorers()) >= set(POINTS)
    report = run_stage(out, "score-light", ScorerConfig(options={"scale": 2.0}), Here())
    assert report.done == 2 and not report.failed
    first, second = (unit.read("score-light") for unit in made_units(out))
    assert first.column_names == ["clip", "light", "spread"]
    assert first["light"][0].as_py() == pytest.approx(2 * moving(0, 4)[[1, 3]].mean(), rel=0.02)
    assert second["light"][0].as_py() == pytest.approx((moving(1, 4)[[1, 3]] // 2 * 2.0).mean(), rel=0.02)
    assert first["light"][1].as_py() is None and first["spread"].null_count == 2
    assert (out / "rejected/score-light/000000.jsonl").read_text().count("cannot be decoded") == 1
    assert run_stage(out, "score-light", ScorerConfig(options={"scale": 2.0}), Here()).done == 0
    assert run_stage(out, "score-light", ScorerConfig(), Here()).done == 2


def test_rules_name_its_columns(installed, out):
    assert not run_stage(out, "score-light", ScorerConfig(), Here()).failed
    bright = moving(0, 4)[[1, 3]].mean()
    rule = SelectConfig.model_validate({"rules": [{"column": "light", "min": bright * 0.75}]})
    select(out, rule)
    assert [why[:5] for why in read_selection(out)["dropped_by"].to_pylist()] == ["", "light", "light"]
    with pytest.raises(ConfigError, match="`lavie curate score --scorer short`"):
        select(out, SelectConfig.model_validate({"rules": [{"column": "only_short", "min": 1}]}))


def test_a_scorer_that_fails_costs_the_units_that_it_fails_at(installed, out):
    report = run_stage(out, "score-broken", ScorerConfig(), Here())
    assert report.done == 1 and list(report.failed) == ["000001"]
    name = made_units(out)[1].read("cut")["clip"][0].as_py()
    assert f"scorer broken failed at clip {name} of b.mp4: ZeroDivisionError: no such face" in report.failed["000001"]
    assert made_units(out)[0].read("score-broken")["broken"].to_pylist() == [1, None]


@pytest.mark.parametrize(
    "name, words",
    (
        (
            "short",
            r"scorer short failed at clip .*: it gave \['only_short'\]: wanted a number for each of only_short, ",
        ),
        ("unmade", "scorer unmade cannot be made: TypeError"),
        ("upper", r"scorer upper cannot be loaded: DataError: its `columns` are \('NSFW',\)"),
        ("twice", r"scorer twice cannot be loaded: DataError: its `columns` are \('own', 'own'\)"),
        ("blank", r"scorer blank cannot be loaded: DataError: its `columns` are \('a b',\)"),
        ("empty", r"scorer empty cannot be loaded: DataError: its `columns` are \(\)"),
        ("taken", "scorer taken cannot be loaded: DataError: its column luma is taken already"),
        ("kept", "scorer kept cannot be loaded: DataError: its column keep is taken already"),
        ("absent", "scorer absent cannot be loaded: ModuleNotFoundError: .*scorers_of_no_test"),
        (
            "nobody",
            f"scorer nobody cannot be loaded: DataError: no package here offers it by an entry point of {GROUP}",
        ),
    ),
)
def test_whatever_is_wrong_with_a_scorer_is_said_of_each_unit(installed, out, name, words):
    report = run_stage(out, f"score-{name}", ScorerConfig(), Here())
    assert report.done == 0 and sorted(report.failed) == ["000000", "000001"]
    for reason in report.failed.values():
        assert re.search(words, reason)


def test_its_version_is_that_of_the_stage(installed):
    assert plugin_stage("light").version == 3 and plugin_stage("light").columns["light"] == "float"
