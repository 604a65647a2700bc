"""Which dataset each position of a run is taken from: a pure function of the position that can be counted.

Position p takes dataset d if T[d] <= (A p + U) mod 2**64 < T[d + 1]: a Weyl sequence of the golden ratio, whose
share in any window is that of the weights up to a few samples (its discrepancy is O(log n / n)). How many of the first
p positions took d is a floor sum, found exactly in O(log p), so each dataset goes through its own permutation without
gap or repeat, and a run resumes anywhere at once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from ..errors import ConfigError
from ..seeds import key64

Knots = Sequence[tuple[int, float]]
"""(step, weight), steps ascending: linear between them, constant outside."""

MODULUS = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio, odd: of all steps, the one whose multiples spread most evenly."""
PIECES = 256
"""Constant pieces that stand for the weights between two knots, each with the weights of its middle. A weight is off by
at most 1/512 of its change from knot to knot; where knots are at most 256 steps apart, every step has its own."""


def weight_at(knots: Knots, step: int | Fraction) -> Fraction:
    """The weight at a step, exactly."""
    after = bisect_right(knots, step, key=lambda knot: knot[0])
    if after in (0, len(knots)):
        return Fraction(knots[max(0, after - 1)][1])
    (s0, w0), (s1, w1) = knots[after - 1], knots[after]
    return Fraction(w0) + (Fraction(w1) - Fraction(w0)) * Fraction(step - s0) / (s1 - s0)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """The sum of (a i + b) // m over 0 <= i < n, for n, a, b >= 0 and m >= 1, in O(log) steps.

    Whole multiples of m are split off a and b; what is left counts lattice points under a line, and counting them by
    rows instead of columns exchanges a and m, as in Euclid's algorithm.
    """
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
    return total


class Mixture:
    """Divides positions among datasets by weights that depend on the step, `per_step` positions to a step."""

    def __init__(self, weights: Sequence[Knots], names: Sequence[str], per_step: int, seed: int, purpose: str) -> None:
        """weights and names: one for each dataset. Raises ConfigError if all weights are 0 at some step."""
        self._size, self._per_step = len(weights), per_step
        self._offset = key64(seed, f"{purpose} mixture")
        self._first_steps = _pieces(weights)
        ends = [*self._first_steps[1:], self._first_steps[-1] + 1]
        self._thresholds = [
            _thresholds([weight_at(knots, Fraction(first + end - 1, 2)) for knots in weights], names, purpose, first)
            for first, end in zip(self._first_steps, ends, strict=True)
        ]
        """For each piece, T[0] = 0 <= ... <= T[datasets] = 2**64."""
        self._starts = [first * per_step for first in self._first_steps]
        self._before = [[0] * self._size]
        for piece, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            taken = [self._count(start, end, piece, d) for d in range(self._size)]
            self._before.append([a + b for a, b in zip(self._before[-1], taken, strict=True)])

    def at(self, position: int) -> tuple[int, int]:
        """The dataset that a position takes, and how many positions before it took the same."""
        if self._size == 1:
            return 0, position
        piece = bisect_right(self._starts, position) - 1
        x = (GOLDEN * position + self._offset) % MODULUS
        dataset = bisect_right(self._thresholds[piece], x) - 1
        return dataset, self._before[piece][dataset] + self._count(self._starts[piece], position, piece, dataset)

    def counts(self, position: int) -> list[int]:
        """How many of the positions before this one took each dataset."""
        piece = bisect_right(self._starts, position) - 1
        start = self._starts[piece]
        return [self._before[piece][d] + self._count(start, position, piece, d) for d in range(self._size)]

    def shares(self, step: int) -> list[float]:
        """The share of each dataset in the positions of a step; they sum to 1."""
        thresholds = self._thresholds[bisect_right(self._first_steps, step) - 1]
        return [(high - low) / MODULUS for low, high in zip(thresholds, thresholds[1:], strict=False)]

    def _count(self, start: int, end: int, piece: int, dataset: int) -> int:
        """How many of the positions start <= p < end, all of one piece, take a dataset."""
        low, high = self._thresholds[piece][dataset : dataset + 2]
        offset = (GOLDEN * start + self._offset) % MODULUS
        # With r = (A i + U) mod M, (A i + U - T) // M is one less than (A i + U) // M if r < T, and else equal to it;
        # the M on both sides keeps the floor sum's terms from being negative.
        below_low = floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - low)
        return below_low - floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - high)


def _pieces(weights: Sequence[Knots]) -> list[int]:
    """The first step of each piece of constant weights: at each knot, and PIECES (at most) between two of them."""
    knots = sorted({0, *(step for each in weights for step, _ in each)})
    firsts = [
        first + (end - first) * i // pieces
        for first, end in zip(knots, knots[1:], strict=False)
        for pieces in [min(PIECES, end - first)]
        for i in range(pieces)
    ]
    return [*firsts, knots[-1]]


def _thresholds(weights: Sequence[Fraction], names: Sequence[str], purpose: str, step: int) -> list[int]:
    total = sum(weights)
    if not total:
        raise ConfigError(
            f"data.train: at step {step} the weights of all datasets with {purpose} are 0 ({', '.join(names)}): give "
            "one of them a weight there"
        )
    return [0, *(int(part * MODULUS / total) for part in accumulate(weights))]
