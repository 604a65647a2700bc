"""Stages of a curation: what is done, what is out of date, and what of it is done again."""

import json

import pytest

from lavie.curation.engine.local import LocalEngine
from lavie.curation.films import list_films
from lavie.curation.run import run_stage
from lavie.curation.table import read_table
from tests.curation.here import Here
from tests.curation.toy import STAGES, ToyConfig, films

UNIT = 6.0
"""Seconds of film in a unit of the toy films, by their size."""


def listed(src, out):
    return list_films(src, out, lambda path: None, UNIT)


def run(out, engine=None, **factors):
    """Bring all toy stages up to date; return how many units each of them did."""
    done = {}
    for place in STAGES:
        name = place.rpartition(":")[2].lower()
        report = run_stage(out, place, ToyConfig(factor=factors.get(name, 1)), engine or Here())
        assert not report.failed, report.failed
        done[name] = report.done
    return done


def files(out):
    return {p.relative_to(out).as_posix(): p for p in sorted(out.rglob("*")) if p.is_file()}


def contents(out):
    return {name: path.read_bytes() for name, path in files(out).items()}


def written(out):
    return {name: path.stat().st_mtime_ns for name, path in files(out).items()}


@pytest.fixture
def place(tmp_path):
    films(tmp_path / "films", ("a", "b", "bad", "c", "d", "e"))
    listed(tmp_path / "films", tmp_path / "out")
    return tmp_path / "out"


def test_every_clip_is_there_once(place):
    units = len(listed(place.parent / "films", place).list.units)
    assert units > 2
    assert run(place) == dict(cut=units, score=units, rank=units, caption=units)
    rows = [row for i in range(units) for row in read_table(place / f"table/cut/{i:06d}.parquet").to_pylist()]
    assert [row["film"] for row in rows] == [f"{name}.mp4" for name in "abcde" for _ in range(3)]
    [refused] = [path for name, path in files(place).items() if name.startswith("rejected/")]
    assert json.loads(refused.read_text()) == {"name": "bad.mp4", "reason": "bad", "detail": "by its name"}
    assert not (place / "partial").exists()


def test_a_second_run_does_nothing(place):
    run(place)
    before = written(place)
    assert run(place) == dict(cut=0, score=0, rank=0, caption=0)
    assert written(place) == before


def test_other_settings_redo_what_depends_on_them(place):
    units = run(place)["cut"]
    before, old = written(place), contents(place)
    assert run(place, caption=2) == dict(cut=0, score=0, rank=0, caption=units)
    changed = {name for name, time in written(place).items() if time != before[name]}
    assert changed == {name for name in before if name.startswith("table/caption/")}
    assert run(place) == dict(cut=0, score=0, rank=0, caption=units)
    assert contents(place) == old


def test_equal_values_stop_what_follows(place):
    """Places among all clips depend on the order of the scores alone, so captions need not be written anew."""
    units = run(place)["cut"]
    assert run(place, score=2) == dict(cut=0, score=units, rank=units, caption=0)


def test_new_films_leave_old_units_alone(place):
    units = run(place)["cut"]
    before = written(place)
    films(place.parent / "films", ("a1",))
    assert listed(place.parent / "films", place).new == 1
    done = run(place)
    assert (done["cut"], done["score"]) == (1, 1) and done["rank"] == units + 1
    now = written(place)
    again = {name for name in before if now[name] != before[name]}
    assert {name for name in again if "/rank/" not in name and "/caption/" not in name} == {"films.parquet"}


def test_a_changed_film_is_done_again(place):
    run(place)
    (place.parent / "films/b.mp4").write_bytes(b"another film")
    found = listed(place.parent / "films", place)
    assert found.changed == ("b.mp4",)
    assert run(place)["cut"] == 1


def test_a_stage_waits_for_what_it_reads(place):
    report = run_stage(place, STAGES[1], ToyConfig(), Here())
    assert len(report.waiting) == report.units and report.done == 0


@pytest.mark.slow
def test_the_pool_makes_the_same_bytes(place, tmp_path):
    run(place)
    listed(tmp_path / "films", tmp_path / "pool")
    run(tmp_path / "pool", LocalEngine(2))
    assert contents(tmp_path / "pool") == contents(place)
