import choix
import numpy as np
import pytest
from scipy.optimize import minimize

from lavie.evaluation.human.strengths import ELO, fit_strengths


def table(models, wins, ties=()):
    counts = np.zeros((1, models, models, 2))
    for i, j, n in wins:
        counts[0, i, j, 0] = n
    for i, j, n in ties:
        counts[0, i, j, 1] = n
    return counts


PAPER = table(3, ((0, 1, 75.0), (1, 0, 25.0), (0, 2, 75.58), (2, 0, 24.42), (1, 2, 59.10), (2, 1, 40.90)))
"""Table 3 of the paper with as many votes on each pair: LaVie, ModelScope, VideoCrafter."""


def test_strengths_of_table_3():
    [strengths], _ = fit_strengths(PAPER, ties=False)
    assert strengths == pytest.approx([1.257, 0.275, 0], abs=0.01)
    assert strengths * ELO == pytest.approx([218, 48, 0], abs=1)
    again = 1 / (1 + np.exp(-(strengths[[0, 0, 1]] - strengths[[1, 2, 2]])))
    assert again == pytest.approx([0.727, 0.778, 0.568], abs=1e-3)


def test_strengths_as_choix_has_them():
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 30, (5, 5))
    np.fill_diagonal(wins, 0)
    counts = np.zeros((1, 5, 5, 2))
    counts[0, :, :, 0] = wins
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(wins[i, j])]
    expected = choix.opt_pairwise(5, data, alpha=0, tol=1e-10)
    [strengths], _ = fit_strengths(counts, ties=False)
    assert strengths == pytest.approx(expected - expected.min(), abs=1e-4)


def test_a_tie_is_half_a_win_of_both_to_bradley_and_terry():
    tied = fit_strengths(table(2, ((0, 1, 6), (1, 0, 2)), ((0, 1, 4),)), ties=False)[0]
    assert tied == pytest.approx(fit_strengths(table(2, ((0, 1, 8), (1, 0, 4))), ties=False)[0])
    assert tied.max() == pytest.approx(np.log(2))


def test_davidson_as_its_likelihood_has_it():
    rng = np.random.default_rng(3)
    wins, ties = rng.integers(1, 30, (4, 4)), rng.integers(1, 15, (4, 4))
    counts = np.zeros((1, 4, 4, 2))
    for i in range(4):
        for j in range(4):
            if i != j:
                counts[0, i, j, 0] = wins[i, j]
            if i < j:
                counts[0, i, j, 1] = ties[i, j]

    def cost(x):
        worth, v = np.exp([0, *x[:3]]), np.exp(x[3])
        total = 0.0
        for i in range(4):
            for j in range(i + 1, 4):
                both = v * np.sqrt(worth[i] * worth[j])
                whole = worth[i] + worth[j] + both
                total -= wins[i, j] * np.log(worth[i] / whole) + wins[j, i] * np.log(worth[j] / whole)
                total -= ties[i, j] * np.log(both / whole)
        return total

    best = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-7}).x
    expected = np.array([0, *best[:3]])
    [strengths], [v] = fit_strengths(counts, ties=True)
    assert strengths == pytest.approx(expected - expected.min(), abs=1e-4)
    assert v == pytest.approx(np.exp(best[3]), abs=1e-4)


def test_davidson_of_two_models_by_hand():
    """18 wins, 8 losses, 24 ties: odds 18 / 8, and v = ties / sqrt(wins x losses)."""
    [strengths], [v] = fit_strengths(table(2, ((0, 1, 18), (1, 0, 8)), ((0, 1, 24),)), ties=True)
    assert strengths == pytest.approx([np.log(18 / 8), 0], abs=1e-6)
    assert v == pytest.approx(24 / 12, abs=1e-6)


def test_no_maximum_is_said():
    swept = table(3, ((0, 1, 5), (0, 2, 5), (1, 2, 3), (2, 1, 2)))
    assert np.isnan(fit_strengths(swept, ties=False)[0]).all()
    assert np.isnan(fit_strengths(PAPER, ties=True)[0]).all()
    only_ties = table(2, (), ((0, 1, 5),))
    assert np.isnan(fit_strengths(only_ties, ties=True)[0]).all()
    # One table without a maximum leaves the others of a batch alone.
    both, _ = fit_strengths(np.concatenate([PAPER, swept]), ties=False)
    assert both[0] == pytest.approx([1.257, 0.275, 0], abs=0.01) and np.isnan(both[1]).all()


def test_models_that_no_chain_of_votes_joins_have_no_strengths():
    """Two models met one another only, and so did two others: between the two pairs nothing is known."""
    votes = ((0, 1, 5), (1, 0, 3), (2, 3, 4), (3, 2, 4))
    assert np.isnan(fit_strengths(table(4, votes), ties=False)[0]).all()
    assert np.isfinite(fit_strengths(table(4, votes, ((1, 2, 1),)), ties=False)[0]).all()


def test_one_model_is_the_reference_of_a_batch():
    turned = PAPER[:, [2, 1, 0]][:, :, [2, 1, 0]]
    strengths, _ = fit_strengths(np.concatenate([PAPER, turned]), ties=False)
    assert (strengths[:, 2] == 0).all() and strengths[1, 0] == pytest.approx(-1.257, abs=0.01)
