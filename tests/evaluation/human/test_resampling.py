import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from lavie.evaluation.human.resampling import Votes, draw_weights, share_interval, student, two_way_error, wilson


def mean_of(scores):
    return lambda weights: weights @ scores / weights.sum(axis=1)


@pytest.mark.parametrize(
    "share, n, low, high", ((0.75, 100, 0.657, 0.825), (0.75, 300, 0.698, 0.796), (0.75, 900, 0.721, 0.777))
)
def test_wilson(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=5e-4)
    assert wilson(share, n) == pytest.approx(proportion_confint(share * n, n, method="wilson"), abs=1e-6)


def test_table_3_decides_from_116_votes_on():
    assert wilson(0.591, 115)[0] < 0.5 < wilson(0.591, 116)[0]


@pytest.mark.parametrize("freedom", (1, 2, 3, 4, 5, 9, 29, 200))
def test_student(freedom):
    assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01 if freedom < 5 else 2e-3)


def test_weights_draw_whole_clusters():
    clusters = np.array([7, 7, 2, 9, 9, 9])
    weights = draw_weights(clusters, np.random.default_rng(0), 4000)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.05)


@pytest.mark.parametrize("of_raters, of_prompts", ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
def test_the_error_counts_raters_prompts_and_noise_once(of_raters, of_prompts):
    """The variance of a mean over a full table is known: of raters / R, of prompts / P, of noise / (R P)."""
    rng = np.random.default_rng(1)
    raters, prompts = 60, 80
    table = (
        of_raters * rng.standard_normal((raters, 1))
        + of_prompts * rng.standard_normal(prompts)
        + rng.standard_normal((raters, prompts))
    )
    rater, prompt = np.divmod(np.arange(table.size), prompts)
    error = two_way_error(mean_of(table.ravel()), Votes(rater, prompt), draws=600)
    truth = np.sqrt(of_raters**2 / raters + of_prompts**2 / prompts + 1 / table.size)
    assert error == pytest.approx(truth, rel=0.25)


def test_one_rater_or_one_prompt_has_no_error():
    scores = np.array([0.0, 1.0, 1.0])
    assert two_way_error(mean_of(scores), Votes(np.zeros(3, int), np.arange(3))) is None
    assert two_way_error(mean_of(scores), Votes(np.arange(3), np.zeros(3, int))) is None


def test_a_statistic_that_seldom_exists_has_no_error():
    def never(weights):
        return np.where(weights[:, 0] > 0, 1.0, np.nan)

    assert two_way_error(never, Votes(np.arange(9), np.arange(9))) is None


def test_interval_of_a_share():
    # The error of 300 independent votes gives Wilson's interval of 300 votes.
    error = np.sqrt(0.75 * 0.25 / 300)
    assert share_interval(0.75, error, 10**6) == pytest.approx(wilson(0.75, 300), abs=1e-6)
    low, high = share_interval(1.0, 0.0, 11)
    assert high == pytest.approx(1) and low == pytest.approx(wilson(1.0, 12, student(11))[0])


def simulate(rng, raters, prompts, each, of_raters, of_prompts):
    """A study at a true 60 %: `each` prompts for every rater, whose inclinations and the prompts' shift the odds."""
    rater = np.repeat(np.arange(raters), each)
    prompt = np.concatenate([rng.permutation(prompts)[:each] for _ in range(raters)])
    chance = 0.6 + rng.uniform(-1, 1, raters)[rater] * of_raters + rng.uniform(-1, 1, prompts)[prompt] * of_prompts
    return (rng.random(len(rater)) < chance).astype(float), Votes(rater, prompt)


@pytest.mark.slow
@pytest.mark.parametrize(
    "raters, prompts, each, of_raters, of_prompts",
    ((30, 40, 12, 0.0, 0.0), (30, 40, 12, 0.2, 0.2), (12, 24, 16, 0.3, 0.0)),
)
def test_intervals_of_a_thousand_studies_cover(raters, prompts, each, of_raters, of_prompts):
    rng = np.random.default_rng(2)
    covered = 0
    for study in range(1000):
        scores, votes = simulate(rng, raters, prompts, each, of_raters, of_prompts)
        error = two_way_error(mean_of(scores.astype(np.float32)), votes, seed=study, draws=200)
        low, high = share_interval(scores.mean(), float(error), votes.freedom)
        covered += low <= 0.6 <= high
    assert 930 <= covered <= 985
