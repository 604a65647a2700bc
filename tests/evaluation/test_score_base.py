"""Accuracies count what was asked for, beside chance."""

import pytest

from lavie.evaluation.judge import Verdict
from lavie.evaluation.score_base import accuracies

TRUTHS = [Verdict("red", "left"), Verdict("blue", "up"), Verdict("green", None), Verdict("cyan", "down")]
SEEN = [Verdict("red", "left"), Verdict("blue", "down"), Verdict("green", "up"), Verdict(None, None)]


def test_counts():
    result = accuracies(SEEN, TRUTHS)
    assert result["colour"] == {"right": 3, "count": 4, "accuracy": 0.75, "chance": 1 / 6}
    assert result["direction"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 4}
    assert result["both"] == {"right": 1, "count": 3, "accuracy": 1 / 3, "chance": 1 / 24}
    assert accuracies([], [])["colour"]["accuracy"] is None


def test_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="shorter"):
        accuracies(SEEN, TRUTHS[:2])
