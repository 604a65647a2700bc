import numpy as np
import pytest
from scipy.linalg import sqrtm

from lavie.errors import DataError
from lavie.evaluation.fvd.distance import Gaussian, extrapolate, frechet, frechet_of, gaussian, mmd, spread


def normal(n, d, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_two_gaussians_with_a_distance_by_hand():
    # |(1, 2, 2)|^2 + sum (sqrt a - sqrt b)^2 = 9 + 1 + 1 + 1
    a = Gaussian(np.zeros(3), np.diag([1.0, 4, 9]))
    b = Gaussian(np.array([1.0, 2, 2]), np.diag([4.0, 1, 16]))
    assert frechet_of(a, b) == pytest.approx(12, abs=1e-9)


@pytest.mark.parametrize("ddof", (0, 1))
@pytest.mark.parametrize("n, m, d", ((200, 150, 6), (8, 8, 40), (30, 8, 12)))
def test_both_roots_agree_with_the_definition(n, m, d, ddof):
    real, fake = normal(n, d), 1.5 * normal(m, d, seed=1, shift=0.3)
    a, b = (Gaussian(x.mean(0), np.cov(x.T, ddof=ddof)) for x in (real, fake))
    wanted = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance)
    assert frechet(real, fake, ddof) == pytest.approx(frechet_of(a, b), abs=1e-6)
    if n > d < m:  # where sqrtm is to be trusted
        wanted -= 2 * np.trace(sqrtm(a.covariance @ b.covariance)).real
        assert frechet(real, fake, ddof) == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_allclose(gaussian(real, ddof).covariance, a.covariance, atol=1e-12)


@pytest.mark.parametrize("n", (8, 500))
def test_a_set_is_at_no_distance_from_itself(n):
    assert abs(frechet(normal(n, 400), normal(n, 400))) < 1e-6


@pytest.mark.slow
def test_samples_of_one_law_are_as_far_apart_as_their_number_makes_them():
    assert frechet(normal(2048, 400), normal(2048, 400, seed=1)) == pytest.approx(39.3, abs=1)


def test_polynomial_mmd_of_published_examples():
    x, y = np.arange(1, 10).reshape(3, 3), np.array([(7, 6, 5), (4, 3, 2), (1, 1, 8), (0, 2, 5)])
    assert mmd(x, y, 2, 0, unbiased=False) == pytest.approx(270.7222, abs=1e-3)
    assert mmd(x, y, 3, 1, unbiased=False) == pytest.approx(23088.0833, abs=1e-3)


def test_unbiased_mmd_leaves_out_a_features_product_with_itself():
    x, y = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 1], [2, 0]])
    # (x . y / 2 + 1) ** 2: within x 1; within y (2 / 2 + 1) ** 2 = 4; across 2.25, 4, 2.25, 1
    assert mmd(x, y, 2, 1) == pytest.approx(1 + 4 - 2 * (2.25 + 4 + 2.25 + 1) / 4)


def test_halves_of_one_set_are_at_no_kernel_distance():
    x = normal(400, 20)
    around = spread(mmd, x[:200], x[200:], seed=0)
    assert abs(around.value) < 3 * around.error


@pytest.mark.slow
def test_the_error_by_halves_is_that_of_repeated_experiments():
    def distance(a, b):
        return frechet(a, b)

    values = [distance(normal(400, 4, seed=s, shift=0.5), normal(400, 4, seed=1000 + s)) for s in range(300)]
    errors = [
        spread(distance, normal(400, 4, seed=s, shift=0.5), normal(400, 4, seed=1000 + s), seed=s).error
        for s in range(20)
    ]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_halves_are_the_seeds_own():
    x, y = normal(40, 3), normal(40, 3, seed=1)
    assert spread(frechet, x, y, seed=1) == spread(frechet, x, y, seed=1)
    assert spread(frechet, x, y, seed=1).halves != spread(frechet, x, y, seed=2).halves


def test_the_line_to_infinitely_many_clips_takes_the_bias_away():
    real, fake = normal(2000, 20), normal(2000, 20, seed=1)
    line = extrapolate(frechet, real, fake, seed=0)
    assert [(n, m) for n, m, _ in line.sizes] == [(500, 500), (1000, 1000), (2000, 2000)]
    values = [value for *_, value in line.sizes]
    assert values[0] > values[1] > values[2] == pytest.approx(frechet(real, fake), rel=1e-9)
    assert abs(line.value) < values[2] / 4  # the truth is 0


@pytest.mark.parametrize(
    "call, words",
    (
        (lambda: frechet(normal(1, 3), normal(9, 3)), "two clips or more"),
        (lambda: frechet(normal(9, 3) * np.nan, normal(9, 3)), "9 of 9 features are not finite"),
        (lambda: frechet(normal(9, 3), normal(9, 4)), "3 features of each real clip and 4 of each fake"),
        (lambda: mmd(normal(9, 3), normal(9, 4)), "3 features of each real clip and 4 of each fake"),
        (lambda: spread(frechet, normal(3, 3), normal(9, 3), 0), "an interval needs 4"),
        (lambda: extrapolate(frechet, normal(9, 3), normal(7, 3), 0), "quarters need 8"),
    ),
)
def test_too_few_or_broken_features_are_refused(call, words):
    with pytest.raises(DataError, match=words):
        call()
