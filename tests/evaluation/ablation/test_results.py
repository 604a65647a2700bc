"""The file of results: what is written is read, and what does not compare is refused."""

import json

import pytest

from lavie.errors import DataError
from lavie.evaluation.ablation.results import append, gather, line, read
from tests.evaluation.ablation.made_up import judged, result


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "results.jsonl"
    written = [judged("rope", 0, "m.x", [1.0, None, 0.0]), result("absolute", 1, values={"x": None})]
    for one in written:
        append(path, one)
    assert read(path) == written
    assert gather([tmp_path]) == gather([path]) == {"table7": written}


def test_numbers_keep_seven_digits():
    assert json.loads(line(result("rope", 0, values={"x": 0.123456789})))["values"]["x"] == 0.1234568


def test_a_line_that_was_cut_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, result("rope", 0))
    with path.open("a") as file:
        file.write(line(result("rope", 1))[:50])
    assert [one.seed for one in read(path)] == [0]


def test_what_is_added_behind_a_line_that_was_cut_is_read(tmp_path):
    path = tmp_path / "results.jsonl"
    for before in ("", line(result("rope", 0))):
        path.write_text(before + line(result("rope", 1))[:50])
        append(path, result("rope", 2))
        assert path.read_text() == before + line(result("rope", 2))


def test_a_second_result_of_an_arm_and_seed_is_not_added(tmp_path):
    """Two calls at once on one folder: what both have drawn is the same."""
    path = tmp_path / "results.jsonl"
    for arm, seed in (("rope", 0), ("rope", 0), ("rope", 1), ("absolute", 0)):
        append(path, result(arm, seed))
    assert [(one.arm, one.seed) for one in read(path)] == [("rope", 0), ("rope", 1), ("absolute", 0)]


def test_a_last_line_without_its_end_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(line(result("rope", 0)).rstrip())
    assert read(path) == [result("rope", 0)]
    append(path, result("rope", 1))
    assert read(path) == [result("rope", 0), result("rope", 1)]


@pytest.mark.parametrize(
    "change, words",
    (
        ({"seed": "0"}, "seed: Input should be a valid integer"),
        ({"values": {"x": True}}, r"values\.x: Input should be a valid number"),
        ({"seconds": {"training": 1.0}}, "seconds has no drawing"),
        ({"versions": {"lavie": "1"}}, "versions has no torch"),
    ),
)
def test_the_fault_of_a_line_is_named(tmp_path, change, words):
    good = json.loads(line(result("rope", 0)))
    (tmp_path / "results.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(DataError, match=rf"results\.jsonl, line 2: no result of `lavie ablate`: {words}"):
        read(tmp_path / "results.jsonl")


def test_a_line_that_is_no_result_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DataError, match=r"results\.jsonl, line 1: no result"):
        gather([tmp_path])


def test_places_without_results_are_named(tmp_path):
    with pytest.raises(DataError, match="no results"):
        gather([tmp_path])


@pytest.mark.parametrize(
    "second, words",
    (
        (result("rope", 1, config_hash="other"), "two configurations, hash of rope and other"),
        (result("rope", 0), "two results of seed 0"),
        (
            result("absolute", 1, settings_hash="theirs"),
            r"arm absolute, seed 1, is of other settings \(theirs\) than arm rope, seed 0 \(ours\)",
        ),
    ),
)
def test_what_does_not_compare_is_refused(tmp_path, second, words):
    append(tmp_path / "a.jsonl", result("rope", 0, settings_hash="ours"))
    append(tmp_path / "b.jsonl", second)
    with pytest.raises(DataError, match=words):
        gather([tmp_path])


def test_results_of_before_there_was_a_hash_of_settings_stay_as_they_are(tmp_path):
    old, new = result("rope", 0), result("rope", 1, settings_hash="ours")
    assert "settings_hash" not in line(old) and json.loads(line(new))["settings_hash"] == "ours"
    for one in (old, new):
        append(tmp_path / "results.jsonl", one)
    assert gather([tmp_path]) == {"table7": [old, new]}
