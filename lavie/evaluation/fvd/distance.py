"""Distances between two sets of features, in float64: Fréchet, and polynomial MMD.

The trace of the root of a product of covariances is taken by eigenvalues. The widespread `scipy.linalg.sqrtm` fails on
singular products, which few clips always give: it has reported -341 for a set against itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...errors import DataError
from ...seeds import numpy_generator

HALVES = 100
"""Random halves that an interval is made of."""
DEGREE, COEFFICIENT = 3, 1.0
"""The polynomial kernel of KVD has this degree and this constant (TATS): (x . y / d + 1) ** 3."""


Distance = Callable[[np.ndarray, np.ndarray], float]
"""A distance between features (n, D) and (m, D)."""


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features."""

    mean: np.ndarray
    """float64 (D,)."""
    covariance: np.ndarray
    """float64 (D, D)."""


def gaussian(features: ArrayLike, ddof: int = 1) -> Gaussian:
    """Return the mean and the covariance, which divides by n - ddof, of features (n, D)."""
    x = _two_or_more(features)
    mean = x.mean(axis=0)
    return Gaussian(mean, (x - mean).T @ (x - mean) / (len(x) - ddof))


def frechet_of(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Fréchet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians.

    tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * _roots(values)) @ vectors.T
    cross = _roots(np.linalg.eigvalsh(root @ b.covariance @ root)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _roots(values: np.ndarray) -> np.ndarray:
    """Return the roots of eigenvalues; what is no more than rounding is zero, for its root would be far more."""
    rounding = len(values) * np.finfo(np.float64).eps * values.max()
    return np.sqrt(np.where(values > rounding, values, 0))


def frechet(real: ArrayLike, fake: ArrayLike, ddof: int = 1) -> float:
    """Return the Fréchet distance between features (n, D) and (m, D), each with the covariance of n - ddof.

    Where there are fewer clips than dimensions, tr (S1 S2)^(1/2) is the sum of the singular values of A B^T over
    sqrt((n - ddof) (m - ddof)), for the centred features A and B: the same number, faster and more exact.
    """
    a, b = _pair(real, fake)
    if len(a) >= a.shape[1] or len(b) >= b.shape[1]:
        return frechet_of(gaussian(a, ddof), gaussian(b, ddof))
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    n, m = len(a) - ddof, len(b) - ddof
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt(n * m)
    return float(apart + np.square(a).sum() / n + np.square(b).sum() / m - 2 * cross)


def mmd(
    real: ArrayLike, fake: ArrayLike, degree: int = DEGREE, coefficient: float = COEFFICIENT, unbiased: bool = True
) -> float:
    """Return the squared maximum mean discrepancy of the kernel (x . y / D + coefficient) ** degree.

    Args:
        real: features (n, D).
        fake: features (m, D).
        degree: of the polynomial.
        coefficient: its constant.
        unbiased: leave out every feature's product with itself.
    """
    a, b = _pair(real, fake)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + coefficient) ** degree

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        n = len(x)
        return (values.sum() - np.trace(values)) / (n * (n - 1)) if unbiased else values.mean()

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


class Spread(NamedTuple):
    """A distance with what its number of clips makes of it."""

    value: float
    """The distance of all clips."""
    error: float
    """Its standard error, by random halves drawn without replacement (the delete-half jackknife).

    A bootstrap would draw clips twice, and duplicates make the distance larger.
    """
    halves: list[float]
    """The distances of the halves, in the order that the seed gives: those of two sets of the same size compare."""


def spread(distance: Distance, real: np.ndarray, fake: np.ndarray, seed: int, halves: int = HALVES) -> Spread:
    """Return a distance between features (n, D) and (m, D) with its standard error.

    Raises:
        DataError: there are fewer than four clips on a side.
    """
    if min(len(real), len(fake)) < 4:
        raise DataError(f"{len(real)} real and {len(fake)} fake clips: an interval needs 4 of each, or more")
    found = []
    for number in range(halves):
        half_real, half_fake = (
            features[numpy_generator(seed, f"half of {side}", number).permutation(len(features))[: len(features) // 2]]
            for side, features in (("real", real), ("fake", fake))
        )
        found.append(distance(half_real, half_fake))
    # Halves lie higher than the whole, so their spread is taken around their own mean.
    return Spread(distance(real, fake), float(np.std(found, ddof=1)), found)


class Extrapolation(NamedTuple):
    """How a distance falls with the number of clips, and where the line through it ends."""

    sizes: list[tuple[int, int, float]]
    """Real clips, fake clips and the distance: means over the four quarters, the two halves, and the whole."""
    value: float
    """The line a + b (1 / n + 1 / m) through the three, at its end a: infinitely many clips."""


def extrapolate(distance: Distance, real: np.ndarray, fake: np.ndarray, seed: int) -> Extrapolation:
    """Return the distance at a quarter, half and all of the clips, and its line in 1 / n (Chong and Forsyth 2020).

    Raises:
        DataError: there are fewer than eight clips on a side.
    """
    if min(len(real), len(fake)) < 8:
        raise DataError(f"{len(real)} real and {len(fake)} fake clips: quarters need 8 of each, or more")
    real = real[numpy_generator(seed, "order of real").permutation(len(real))]
    fake = fake[numpy_generator(seed, "order of fake").permutation(len(fake))]
    sizes = []
    for parts in (4, 2, 1):
        n, m = len(real) // parts, len(fake) // parts
        pieces = [distance(real[k * n : (k + 1) * n], fake[k * m : (k + 1) * m]) for k in range(parts)]
        sizes.append((n, m, float(np.mean(pieces))))
    _, end = np.polyfit([1 / n + 1 / m for n, m, _ in sizes], [value for *_, value in sizes], 1)
    return Extrapolation(sizes, float(end))


def _pair(real: ArrayLike, fake: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float64 (n, D) and (m, D). Raises DataError unless both have as many, see `_two_or_more`."""
    a, b = _two_or_more(real), _two_or_more(fake)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"{a.shape[1]} features of each real clip and {b.shape[1]} of each fake one: wanted as many")
    return a, b


def _two_or_more(features: ArrayLike) -> np.ndarray:
    """Return features as float64 (n, D). Raises DataError unless there are two or more, all finite."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise DataError(f"features {x.shape}: wanted (n, D) of two clips or more")
    if not np.isfinite(x).all():
        raise DataError(f"{(~np.isfinite(x).all(axis=1)).sum()} of {len(x)} features are not finite")
    return x
