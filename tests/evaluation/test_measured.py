import json
import os
import re

import numpy as np
import pytest

from lavie import __version__
from lavie.errors import DataError
from lavie.evaluation.measured import by_clip, compare, read_result, write_result

RESULT = {"metric": "clipsim", "value": 0.3, "n": 4, "protocol_hash": "abc"}


def scored(*values, **changes):
    return RESULT | {"value": float(np.mean(values)), "scores": {f"{i}.mp4": v for i, v in enumerate(values)}} | changes


def test_scores_by_clip_are_paired_by_name():
    a, b = scored(0.1, 0.2, 0.3, 0.4), scored(0.2, 0.3, 0.4, 0.6)
    b["scores"] = dict(reversed(b["scores"].items()))
    found = compare(a, b)
    differences = np.array([0.1, 0.1, 0.1, 0.2])
    assert found["difference"] == pytest.approx(0.125)
    assert found["standard_error"] == pytest.approx(differences.std(ddof=1) / 2)
    assert found["verdict"] == "b is higher"
    assert compare(b, a)["verdict"] == "b is lower"
    assert compare(a, scored(0.2, 0.1, 0.3, 0.4))["verdict"] == "undecidable"


def test_the_interval_of_a_mean_is_over_clips():
    found = by_clip({"a": 1.0, "b": 2.0, "c": 3.0, "d": 6.0})
    error = np.std([1, 2, 3, 6], ddof=1) / 2
    assert (found["value"], found["n"]) == (3, 4) and found["standard_error"] == pytest.approx(error)
    assert found["interval"] == pytest.approx([3 - 1.959964 * error, 3 + 1.959964 * error])
    assert by_clip({"a": 1.0})["interval"] is None


@pytest.mark.parametrize(
    "change, words",
    (
        ({"metric": "fvd"}, "two metrics"),
        ({"protocol_hash": "abd"}, "two protocols"),
        ({"n": 5}, "two numbers of clips"),
        ({"data": {"real": {"hash": "x"}}}, "two sets of real clips"),
        ({"scores": {"0.mp4": 1.0, "1.mp4": 1.0, "2.mp4": 1.0, "x.mp4": 1.0}}, "2 clips stand in one"),
    ),
)
def test_what_was_not_measured_alike_is_refused(change, words):
    with pytest.raises(DataError, match=words):
        compare(scored(1, 2, 3, 4), scored(1, 2, 3, 4, **change))


def test_results_come_back_with_the_versions_that_made_them(tmp_path):
    path = tmp_path / "deep/r.json"
    write_result(path, RESULT)
    found = read_result(path)
    assert found.items() >= RESULT.items()
    assert found["versions"]["lavie"] == __version__ and found["versions"]["torch"][0].isdigit()
    for text in ("{", "[]", json.dumps({"fvd": 3})):
        path.write_text(text)
        with pytest.raises(DataError, match=r"r\.json"):
            read_result(path)


def test_halves_of_other_numbers_are_refused():
    a, b = (RESULT | {"halves": [1.0] * count} for count in (3, 4))
    with pytest.raises(DataError, match="two numbers of halves do not compare: 3 and 4"):
        compare(a, b)


def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path):
    for name, part in (
        ("scores.b.mp4", {"scores": {"a.mp4": 1.0, "b.mp4": np.nan}}),
        ("interval[1]", {"interval": [0, np.inf]}),
    ):
        with pytest.raises(DataError, match=rf"r\.json: not written: {re.escape(name)} is not finite"):
            write_result(tmp_path / "deep/r.json", RESULT | part)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_is_no_utf8_stands_in_a_result(tmp_path):
    source = os.fsdecode(b"caf\xe9")
    write_result(tmp_path / "r.json", RESULT | {"source": source, "notes": ["ä"]})
    assert "ä" in (tmp_path / "r.json").read_text(encoding="utf-8")
    assert read_result(tmp_path / "r.json")["source"] == source
