"""Errors of a study whose raters and prompts are both samples: a bootstrap over raters and prompts, and intervals.

Votes of one rater resemble each other, and so do votes on one prompt. Drawing raters and prompts anew at the same time
counts the noise of the single votes three times (Owen 2007, "The pigeonhole bootstrap"). So each is drawn by itself,
and the variances are joined: of raters, plus of prompts, less that of the votes, which both hold (Cameron, Gelbach and
Miller 2011, "Robust inference with multiway clustering").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...seeds import numpy_generator
from ..measured import SIGMAS

DRAWS = 1000
"""Draws of a bootstrap: the error of an error is then 2 %."""
FEWEST = 0.95
"""The share of the draws in which a statistic must exist, or it gets no error."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From weights of votes, (draws, votes), to a number or several of each draw, (draws, ...); NaN where there is none."""


@dataclass(frozen=True)
class Votes:
    """Who voted on what: the samples over which a bootstrap draws."""

    raters: np.ndarray
    """(votes,), the number of each vote's rater."""
    prompts: np.ndarray
    """(votes,), the number of each vote's prompt."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of an error: one less than there are raters or prompts, whichever are fewer."""
        return min(len(np.unique(self.raters)), len(np.unique(self.prompts))) - 1

    def where(self, chosen: np.ndarray) -> "Votes":
        """Return the chosen votes; `chosen` is a mask or indices."""
        return Votes(self.raters[chosen], self.prompts[chosen])


def two_way_error(statistic: Statistic, votes: Votes, seed: int = 0, draws: int = DRAWS) -> np.ndarray | None:
    """Return the standard error of a statistic, over raters and prompts.

    Returns:
        an error for each number of the statistic; None where there are fewer than two raters or prompts, or where the
        statistic does not exist in more than a few of the draws.
    """
    if votes.freedom < 1:
        return None
    both = votes.raters.astype(np.int64) * (int(votes.prompts.max()) + 1) + votes.prompts
    variances = []
    for number, clusters in enumerate((votes.raters, votes.prompts, both)):
        found = statistic(draw_weights(clusters, numpy_generator(seed, "human bootstrap", number), draws))
        exists = np.isfinite(found).reshape(draws, -1).all(axis=1)
        if exists.mean() < FEWEST:
            return None
        # Draws of n clusters vary by (n - 1) / n of what n new clusters would.
        count = len(np.unique(clusters))
        variances.append(found[exists].var(axis=0, ddof=1) * count / (count - 1))
    raters, prompts, noise = variances
    # The difference of estimates may fall below the noise of independent votes, which no study can.
    return np.sqrt(np.maximum(raters + prompts - noise, noise))


def draw_weights(clusters: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
    """Return how often each vote occurs when its clusters are drawn with replacement: float32 (draws, votes)."""
    names, members = np.unique(clusters, return_inverse=True)
    count = len(names)
    drawn = generator.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)
    return times.astype(np.float32)[:, members]


def student(freedom: int) -> float:
    """Return how many standard errors a 95 % interval reaches with so many degrees of freedom.

    Student's quantile by its expansion about the normal one (Abramowitz and Stegun 26.7.5): within 1 % for 3 degrees
    and 0.2 % from 5 on. 1 and 2, where the expansion is of no use, stand here as numbers.
    """
    if freedom <= 2:
        return {1: 12.7062, 2: 4.3027}[freedom]
    z, v = SIGMAS, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def wilson(share: float, n: float, sigmas: float = SIGMAS) -> tuple[float, float]:
    """Return Wilson's interval of a share of n independent votes (Wilson 1927): it never leaves [0, 1]."""
    middle = share + sigmas**2 / (2 * n)
    reach = sigmas * np.sqrt(share * (1 - share) / n + sigmas**2 / (4 * n**2))
    return float((middle - reach) / (1 + sigmas**2 / n)), float((middle + reach) / (1 + sigmas**2 / n))


def share_interval(share: float, error: float, freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a share with a standard error: Wilson's, of as many votes as have that error alone.

    A share of 0 or 1 has no error of its own; then each rater or prompt, whichever are fewer, counts as one vote.
    """
    n = share * (1 - share) / error**2 if error > 0 else freedom + 1
    return wilson(share, n or freedom + 1, student(freedom))
