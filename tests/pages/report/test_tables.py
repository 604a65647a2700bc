"""The tables of a report, cell by cell."""

import re
from html import unescape
from pathlib import Path

import pytest

from lavie.pages.report import tables
from lavie.pages.report.read import read
from tests.pages.report.folders import lines, result, some_run, step


def rows(markup):
    """The rows of a table, each a list of its cells as text; the first is the head."""
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", markup)]
    return [[unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in found]


def cells(markup):
    return {name: rest for name, *rest in rows(markup)}


def test_a_run_is_summed_up(tmp_path):
    told = cells(tables.summary(read([some_run(tmp_path / "run")])))
    wanted = {
        "stage": "base",
        "step": "8 of 8",
        "last record (UTC)": "2026-01-02 03:04",
        "held-out loss, last": "2.5",
        "held-out loss, lowest": "2.5 at step 8",
        "samples per second, median of 100 steps": "4",
        "waiting for data": "25 % of a step",
        "most memory of rank 0": "1.5 GiB",
        "time that trained the run (ETTR)": "75 %",
        "samples replaced": "3",
        "starts": "2",
        "steps done again": "2",
        "checkpoints saved": "3",
        "ranks": "2",
        "commit": "bbbbbbbbbbbb-dirty",
        "hash of the code": "c0de",
    }
    assert {name: told[name] for name in wanted} == {name: [value] for name, value in wanted.items()}


def test_two_runs_stand_beside_their_difference(tmp_path):
    first, second = some_run(tmp_path / "a"), some_run(tmp_path / "b", steps=12)
    told = cells(tables.summary(read([first, second])))
    assert told[""] == ["a", "b", "second less first"]
    assert told["step"] == ["8 of 8", "12 of 12", "+4"] and told["stage"] == ["base", "base", ""]


def test_what_was_not_measured_is_said(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("stage: vsr")
    told = cells(tables.summary(read([folder])))
    assert told.pop("stage") == ["vsr"] and told.pop("") == ["run"]
    assert {cell for row in told.values() for cell in row} == {"not measured"}
    for table in (tables.starts(*read([folder])), tables.results(read([folder]), [])):
        assert "not measured" in table
    assert "no checkpoint was saved" in tables.checkpoints(*read([folder]))


def test_replaced_samples_are_counted_by_cause(tmp_path):
    runs = read([some_run(tmp_path / "a")])
    assert rows(tables.drops(runs)) == [["cause", "number"], ["cut off", "2"], ["too long", "1"]]


def test_starts_tell_what_changed(tmp_path):
    [seen] = read([some_run(tmp_path / "run")])
    _, first, second = rows(tables.starts(seen))
    assert first == ["0", "2001-09-09 01:46:40", "0 steps", "2", "0.1.0", "a" * 12, "c0de", "torch 2.13"]
    assert second[2:] == ["2 steps (4 s)", "2", "0.1.0", "bbbbbbbbbbbb-dirty", "c0de", "as before"]


def test_a_start_of_an_earlier_version_tells_less(tmp_path):
    folder = some_run(tmp_path / "run")
    lines(folder / "events.jsonl", {"event": "start", "step": 0, "time": -1}, {"event": "start", "step": 2})
    [seen] = read([folder])
    _, *starts = rows(tables.starts(seen))
    assert starts == [["0", *["not measured"] * 7], ["2", *["not measured"] * 7]]


def test_checkpoints_say_what_became_of_them(tmp_path):
    [seen] = read([some_run(tmp_path / "run")])
    _, *found = rows(tables.checkpoints(seen))
    assert found == [
        ["4", "deleted since", "0.25 s"],
        ["6", "dropped: the disk is full", "0.25 s"],
        ["8", "lies there", "0.50 s"],
    ]


def test_results_have_number_protocol_and_interval(tmp_path):
    folder = some_run(tmp_path / "run")
    measured = {"eval_clips": 8, "eval_kvd": 2.0, "eval_kvd_error": 0.5, "eval_motion": 3.0}
    lines(folder / "metrics.jsonl", step(1), {"step": 1, **measured})
    other = result("fvd", value=350.0, interval=None, n={"real": 64, "fake": 32}, preset="tats")
    _, *found = rows(tables.results(read([folder]), [(Path("there/fvd.json"), other)]))
    during = "section eval of the config, without a hash"
    assert found == [
        ["clipsim", "0.25", "0.2 to 0.3", "40", "9f" * 8, "run: clipsim.json"],
        ["fvd", "350", "not measured", "real 64, fake 32", "tats " + "9f" * 8, "there/fvd.json"],
        ["kvd", "2", "1.02 to 2.98", "8", during, "run: step 1"],
        ["motion", "3", "not measured", "8", during, "run: step 1"],
    ]


@pytest.mark.parametrize(
    "odd",
    (
        {"loss": "x"},
        {"ettr": "much"},
        {"skipped": [1]},
        {"seconds": True},
        {"memory": None},
        {"ettr": 2**62, "lr": 2**62},
    ),
)
def test_records_that_somebody_has_edited_break_nothing(tmp_path, odd):
    folder = some_run(tmp_path / "run")
    lines(folder / "metrics.jsonl", step(1, **odd))
    assert cells(tables.summary(read([folder])))["step"] == ["1 of 8"]


def test_configs_are_compared_key_by_key(tmp_path):
    runs = read(
        [some_run(tmp_path / "a", data={"fps": 8}), some_run(tmp_path / "b", seed=1, data={"fps": 8, "cuts": 1})]
    )
    found = rows(tables.config_difference(runs))
    assert found == [["key", "a", "b"], ["seed", "0", "1"], ["data.cuts", "absent", "1"]]
    assert "the configs are the same" in tables.config_difference(runs[:1])
