"""Intervals and tests of differences that are paired by seeds: what a handful of trainings can tell."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

LEVEL = 0.95
"""What share of intervals is to hold the true value."""
DRAWS = 4000
"""Resamplings of a bootstrap: its percentiles are then off by a few hundredths of a standard error."""

Interval = tuple[float, float]


def student_cdf(t: float, freedom: int) -> float:
    """Return the probability that Student's t of so many degrees of freedom is below `t`.

    The series for whole degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = total = cosine if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return 0.5 + sine * total / 2
    return 0.5 + (angle + (sine * total if freedom > 1 else 0.0)) / math.pi


def student_quantile(share: float, freedom: int) -> float:
    """Return the t that so large a share of Student's law lies below, for a share of 0.5 or more, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < share else (low, middle)
    return high


def paired_t(differences: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of a mean difference by Student's t over seeds; None for fewer than two."""
    if len(differences) < 2:
        return None
    reach = student_quantile((1 + LEVEL) / 2, len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) - reach, fmean(differences) + reach


def sign_test(differences: Sequence[float]) -> float:
    """Return the exact probability that, were both signs as likely, as many differences or more would be above 0.

    Those that are 0 do not count; without others it is 1. Five of five give 1 / 32.
    """
    signs = [difference > 0 for difference in differences if difference]
    n, above = len(signs), sum(signs)
    return sum(math.comb(n, k) for k in range(above, n + 1)) / 2**n


def bootstrap(differences: Sequence[np.ndarray], *, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Return the 95 % percentile interval of a mean difference, over seeds and then over clips.

    Each draw takes as many seeds as there are, with replacement, and of each of these as many clips.

    Args:
        differences: for each seed, float64 (n,), one for each clip; a single number where there are no clips. NaN for a
            clip that could not be measured.
        seed: of the draws.
        draws: their number.

    Returns:
        None where nothing was measured, or where there is one seed without clips.
    """
    kept = [values[~np.isnan(values)] for values in differences]
    kept = [values for values in kept if len(values)]
    if not kept or (len(kept) == 1 and len(kept[0]) == 1):
        return None
    rng = np.random.default_rng(seed)
    means = np.stack(
        [values[rng.integers(len(values), size=(draws * len(kept), len(values)))].mean(1) for values in kept]
    )
    chosen = rng.integers(len(kept), size=(draws, len(kept)))
    columns = np.arange(draws * len(kept)).reshape(draws, len(kept))
    low, high = np.percentile(means[chosen, columns].mean(1), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
