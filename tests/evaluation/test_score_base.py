"""Accuracies count what was asked for, beside chance."""

import io

import pytest
from rich.console import Console

from lavie.evaluation.judge import Verdict
from lavie.evaluation.score_base import report, score

TRUTHS = [Verdict("red", "left"), Verdict("blue", "up"), Verdict("green", None), Verdict("cyan", "down")]
SEEN = [Verdict("red", "left"), Verdict("blue", "down"), Verdict("green", "up"), Verdict(None, None)]


def test_counts():
    result = score(SEEN, TRUTHS)
    assert result["colour"] == {"right": 3, "count": 4, "accuracy": 0.75, "chance": 1 / 6}
    assert result["direction"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 4}
    assert result["both"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 24}
    assert score([], [])["colour"]["accuracy"] is None


def test_refuses_lists_of_different_length():
    with pytest.raises(ValueError):
        score(SEEN, TRUTHS[:2])


def test_report_shows_every_prompt_and_the_chance():
    out = io.StringIO()
    report(["one", "two", "[three]", "four"], SEEN, TRUTHS, Console(file=out, width=100))
    text = out.getvalue()
    for part in ("one", "[three]", "down, wanted up", "none, wanted cyan", "3 / 4", "75%", "17%", "25%"):
        assert part in text
