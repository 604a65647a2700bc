import json

import numpy as np
import pytest
from PIL import Image

from lavie.evaluation.human.analyse import analyse
from lavie.evaluation.human.answers import Answer, Answers
from lavie.evaluation.human.plot import plot_study
from lavie.evaluation.human.tables import tables
from tests.evaluation.human.studies import rng, some_key, vote

WORTH = (3.0, 1.0, 0.7)


@pytest.fixture(scope="module")
def key():
    return some_key(prompts=20, raters=20, pairs=30, ratings=6)


@pytest.fixture(scope="module")
def result(key):
    return analyse(key, Answers(vote(key, rng(1), WORTH, ties=0.2, careless=(4, 5)), twice=2, changed=1))


def test_the_better_model_is_found(result):
    ours, third = result["all"]["preferences"][0], result["all"]["preferences"][2]
    low, high = ours["interval"]
    assert low < 0.2 * 0.5 + 0.8 * 0.75 < high and ours["verdict"] == "ours is preferred"
    assert ours["without_ties"]["share"] > ours["share"] > 0.5
    assert third["first"] == "theirs" and third["second"] == "third"
    assert ours["votes"] == ours["wins"] + ours["ties"] + ours["losses"]
    assert result["value"] == ours["share"] and result["interval"] == ours["interval"]


def test_raters_who_fail_golden_pairs_are_left_out_of_the_second_analysis(key, result):
    """Two raters always say left, which is right where the clip itself is on the left."""
    sides = {
        place: [not key.clips[t.left].copied for t in key.trials.values() if t.kind == "golden" and t.place == place]
        for place in (4, 5)
    }
    raters = {rater["name"]: rater for rater in result["raters"]}
    for place, right in sides.items():
        rater = raters[f"{place:08x}"]
        assert (rater["golden"], rater["golden_right"]) == (3, sum(right))
        assert rater["attentive"] == all(right)
        assert (rater["left"], rater["ties"], rater["repeats"], rater["repeats_alike"]) == (1.0, 0.0, 3, 0)
    failed = [f"{place:08x}" for place, right in sides.items() if not all(right)]
    assert result["left_out"]["raters"] == failed != []
    assert result["attentive"]["raters"] == 20 - len(failed)
    assert result["attentive"]["preferences"][0]["votes"] < result["all"]["preferences"][0]["votes"]

    diligent = raters["00000006"]
    assert diligent["attentive"] and diligent["golden_right"] == diligent["golden"] == 3 and diligent["finished"]


def test_ratings_add_up(result):
    for metric, found in result["all"]["ratings"].items():
        for model in found["models"].values():
            assert sum(model[label]["share"] for label in ("bad", "normal", "good")) == pytest.approx(1), metric
            low, high = model["good"]["interval"]
            assert low < model["good"]["share"] < high
        # Labels drawn at random agree as chance does.
        assert abs(found["krippendorff_ordinal"]) < 0.25
    assert abs(result["all"]["agreement"]["krippendorff_nominal"]) < 0.35


def test_not_applicable_is_counted_beside(key):
    answers = [
        Answer(a.rater, a.trial, a.metric, "na", a.seconds, a.answered_at) if a.metric == "face_body_hand" else a
        for a in vote(key, rng(1), WORTH)
    ]
    found = analyse(key, Answers(answers))["all"]["ratings"]["face_body_hand"]["models"]["ours"]
    assert found["ratings"] == 0 and found["na"] == 40 and found["good"]["share"] is None


def test_a_model_that_lost_every_vote_has_no_strength_and_the_notes_say_so(key):
    result = analyse(key, Answers(vote(key, rng(1), (1.0, 1.0, 1e-12))))
    assert result["all"]["strengths"]["bradley_terry"] is None
    assert any("won or lost all" in note for note in result["notes"])
    assert "### Strengths" not in tables(result)


def test_one_rater_has_shares_and_no_intervals(key):
    answers = [a for a in vote(key, rng(1), WORTH) if a.rater == "00000000"]
    result = analyse(key, Answers(answers))
    assert result["value"] is not None and result["interval"] is None
    assert any("two raters" in note for note in result["notes"])
    assert "Table 3" in tables(result)


def test_the_same_seed_gives_the_same_numbers(key, result):
    again = analyse(key, Answers(vote(key, rng(1), WORTH, ties=0.2, careless=(4, 5)), twice=2, changed=1))
    assert json.dumps(again) == json.dumps(result)


def test_tables_hold_the_numbers(result):
    text = tables(result)
    first = result["all"]["preferences"][0]
    assert "| ours > theirs | ours > third | theirs > third |" in text
    assert f"| Video quality, ties half | {100 * first['share']:.2f} % (" in text
    assert "ours: bad | ours: normal | ours: good | theirs: bad" in text
    good = result["all"]["ratings"]["subject_consistency"]["models"]["ours"]["good"]["share"]
    row = next(line for line in text.splitlines() if line.startswith("| Subject Consistency | "))
    assert f"{good:.2f}" in row
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    grids = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in grid}) == 1 for grid in grids)


def test_the_picture_is_drawn(result, tmp_path):
    plot_study(result, tmp_path / "deep/study.png")
    with Image.open(tmp_path / "deep/study.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1200
    for colour in ((0x1F, 0x3B, 0x73), (0xC8, 0x55, 0x3D), (0x2A, 0x9D, 0x8F)):
        assert (pixels == colour).all(axis=2).any()
