"""The intervals and tests against SciPy's, and against numbers that can be worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from lavie.evaluation.ablation.statistics import bootstrap, paired_t, sign_test, student_cdf, student_quantile


@pytest.mark.parametrize("freedom", (1, 2, 3, 4, 5, 9, 30))
def test_student_is_scipys(freedom):
    for t in (-2.5, -0.3, 0.0, 0.7, 4.0, 40.0):
        assert student_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    assert student_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_the_paired_interval_is_scipys():
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    wanted = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired_t([*(a - b)]) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert paired_t([0.3]) is None


@pytest.mark.parametrize("signs", ("+++++", "++++-", "--+-+", "-----", "++++++++0-", "0", "00"))
def test_the_sign_test_is_the_binomial_one(signs):
    values = [{"+": 0.2, "-": -3.0, "0": 0.0}[sign] for sign in signs]
    n, above = len(signs) - signs.count("0"), signs.count("+")
    wanted = stats.binomtest(above, n, alternative="greater").pvalue if n else 1
    assert sign_test(values) == pytest.approx(wanted, abs=1e-12)


def test_five_seeds_of_five():
    assert sign_test([1, 2, 3, 4, 5]) == 1 / 32


def test_without_clips_the_bootstrap_is_that_over_seeds():
    values = np.random.default_rng(1).normal(3, 1, 12)
    low, high = bootstrap([np.array([value]) for value in values])
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.06)


def test_clips_widen_the_interval_of_equal_seeds():
    """Five seeds with the same 24 of 48: the seeds do not differ, so what is left is the error of the clips."""
    scores = np.repeat([0.0, 1.0], 24)
    low, high = bootstrap([scores] * 5)
    error = 0.5 / np.sqrt(48 * 5)
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.1 * error)


def test_seeds_and_clips_add_their_variances():
    rng = np.random.default_rng(3)
    means = rng.normal(0, 1, 40)
    means -= means.mean()
    clips = [mean + 4 * np.repeat([-1.0, 1.0], 8) for mean in means]
    low, high = bootstrap(clips)
    error = np.sqrt(means.var() / 40 + 16 / 16 / 40)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_what_cannot_be_measured_does_not_count():
    there = np.array([1.0, 2.0, 3.0])
    assert bootstrap([np.array([1.0, np.nan, 2.0, 3.0]), np.array([np.nan])]) == bootstrap([there])
    assert bootstrap([np.array([np.nan])]) is None
    assert bootstrap([np.array([1.0])]) is None
