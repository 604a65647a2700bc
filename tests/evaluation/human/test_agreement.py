import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa

from lavie.evaluation.human.agreement import fleiss, krippendorff

CODERS = ("*****34121133*3", "1*213343*******", "**21344*21133*4")
"""Three coders of fifteen units, four categories, * for none: the worked example of the literature on alpha."""
FLEISS = """
0 0 0 0 14
0 2 6 4 2
0 0 3 5 6
0 3 9 2 0
2 2 8 1 1
7 7 0 0 0
3 2 6 3 0
2 5 3 2 2
6 5 2 1 0
0 2 2 3 7
"""
"""Ten units, fourteen raters, five categories: the worked example of Fleiss' kappa."""


def counted(coders, categories):
    counts = np.zeros((len(coders[0]), categories), int)
    for coder in coders:
        for unit, mark in enumerate(coder):
            if mark != "*":
                counts[unit, int(mark) - 1] += 1
    return counts


@pytest.mark.parametrize("level, alpha", (("nominal", 0.691), ("interval", 0.811), ("ordinal", 0.807)))
def test_alpha_of_the_worked_example(level, alpha):
    assert krippendorff(counted(CODERS, 4), level) == pytest.approx(alpha, abs=1e-3)


def test_kappa_of_the_worked_example():
    counts = np.array([line.split() for line in FLEISS.split("\n") if line], int)
    assert fleiss(counts) == pytest.approx(0.210, abs=1e-3)
    assert fleiss(counts) == pytest.approx(fleiss_kappa(counts), abs=1e-12)


def test_alpha_by_pairs_of_answers():
    """The definition for two raters without gaps: disagreements within units, over those within all answers."""
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, (40, 2))
    counts = np.stack([(answers == k).sum(axis=1) for k in range(3)], axis=1)
    pool = answers.ravel()
    within = (answers[:, 0] != answers[:, 1]).mean()
    among = (pool[:, None] != pool).sum() / (80 * 79)
    assert krippendorff(counts, "nominal") == pytest.approx(1 - within / among, abs=1e-12)


def test_what_says_nothing():
    alone = np.eye(3, dtype=int)
    alike = np.array([[3, 0], [4, 0]])
    for counts in (alone, alike):
        assert krippendorff(counts, "ordinal") is None and fleiss(counts) is None
    full = np.array([[3, 0], [0, 3]])
    assert krippendorff(full, "nominal") == 1 and fleiss(full) == 1
    # Units with one answer change nothing.
    assert krippendorff(np.vstack([full, [[1, 0]]]), "nominal") == 1
