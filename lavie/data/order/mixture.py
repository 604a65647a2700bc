"""Which dataset each position of a run is taken from: a pure function of the position that can be counted.

Position p takes dataset d if T[d] <= (A p + U) mod 2**64 < T[d + 1]: a Weyl sequence of the golden ratio, whose
share in any window is that of the weights up to a few samples (its discrepancy is O(log n / n)). How many of the first
p positions took d is a floor sum, found exactly in O(log p), so each dataset goes through its own permutation without
gap or repeat, and a run resumes anywhere at once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from ...errors import ConfigError
from ...seeds import key64

Knots = Sequence[tuple[int, float]]
"""(step, weight), steps ascending: linear between them, constant outside."""

MODULUS = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio, odd: of all steps, the one whose multiples spread most evenly."""
PIECES = 256
"""Constant pieces that stand for the weights between two knots, each with the weights of its middle. A weight is off by
at most 1/512 of its change from knot to knot; where knots are at most 256 steps apart, every step has its own."""
FOREVER = 1 << 48
"""Steps that no run has."""


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
    """Divides positions among datasets by weights that depend on the step, `per_step` positions to a step.

    With `step_count`, the positions are those of the steps it counts: `at` takes no others.
    """

    def __init__(
        self,
        weights: Sequence[Knots],
        names: Sequence[str],
        per_step: int,
        seed: int,
        purpose: str,
        step_count: "StepCount | None" = None,
    ) -> None:
        """weights and names: one for each dataset. Raises ConfigError if all weights are 0 at some step."""
        self._size, self._per_step, self._step_count = len(weights), per_step, step_count
        self._offset = key64(seed, f"{purpose} mixture")
        self._first_steps = _pieces(weights)
        ends = [*self._first_steps[1:], self._first_steps[-1] + 1]
        self._thresholds = []
        """For each piece, T[0] = 0 <= ... <= T[datasets] = 2**64; all 0 if none of its steps is counted."""
        for first, end in zip(self._first_steps, ends, strict=True):
            parts = [weight_at(knots, Fraction(first + end - 1, 2)) for knots in weights]
            if not any(parts) and (step_count is None or step_count.ticks(first, None if end == ends[-1] else end)):
                raise ConfigError(
                    f"data.train: at step {first} the weights of all datasets with {purpose}"
                    f"{step_count.of if step_count else ''} are 0 ({', '.join(names)}): give one of them a weight there"
                )
            total = sum(parts) or Fraction(1)
            self._thresholds.append([0, *(int(part * MODULUS / total) for part in accumulate(parts))])
        self._starts = [self._own(first * per_step) for first in self._first_steps]
        self._before = [[0] * self._size]
        for piece, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            taken = [self._count(start, end, piece, d) for d in range(self._size)]
            self._before.append([a + b for a, b in zip(self._before[-1], taken, strict=True)])

    def at(self, position: int) -> tuple[int, int]:
        """The dataset that a position takes, and how many positions before it took the same."""
        position = self._own(position)
        if self._size == 1:
            return 0, position
        piece = bisect_right(self._starts, position) - 1
        x = (GOLDEN * position + self._offset) % MODULUS
        dataset = bisect_right(self._thresholds[piece], x) - 1
        return dataset, self._before[piece][dataset] + self._count(self._starts[piece], position, piece, dataset)

    def counts(self, position: int) -> list[int]:
        """How many of the positions before this one took each dataset."""
        return [self.count(position, d) for d in range(self._size)]

    def count(self, position: int, dataset: int) -> int:
        """How many of the positions before this one took a dataset."""
        position = self._own(position)
        piece = bisect_right(self._starts, position) - 1
        return self._before[piece][dataset] + self._count(self._starts[piece], position, piece, dataset)

    def shares(self, step: int) -> list[float]:
        """The share of each dataset in the positions of a step; they sum to 1, or 0 where no step is counted."""
        thresholds = self._thresholds[bisect_right(self._first_steps, step) - 1]
        return [(high - low) / MODULUS for low, high in zip(thresholds, thresholds[1:], strict=False)]

    def _own(self, position: int) -> int:
        """The place of a position among those that `step_count` counts."""
        if self._step_count is None:
            return position
        step, place = divmod(position, self._per_step)
        return self._step_count(step) * self._per_step + place

    def _count(self, start: int, end: int, piece: int, dataset: int) -> int:
        """How many of the positions start <= p < end, all of one piece, take a dataset."""
        low, high = self._thresholds[piece][dataset : dataset + 2]
        offset = (GOLDEN * start + self._offset) % MODULUS
        # With r = (A i + U) mod M, (A i + U - T) // M is one less than (A i + U) // M if r < T, and else equal to it;
        # the M on both sides keeps the floor sum's terms from being negative.
        below_low = floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - low)
        return below_low - floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - high)


@dataclass(frozen=True)
class StepCount:
    """Counts those steps of a run at which a mixture of its steps takes one of `chosen`."""

    steps: Mixture
    chosen: tuple[int, ...]
    of: str = ""
    """For errors: of what these are the steps."""

    def __call__(self, step: int) -> int:
        """How many of them come before a step of the run."""
        return sum(self.steps.count(step, each) for each in self.chosen)

    def share(self, step: int) -> float:
        """Their share of the steps, around a step of the run."""
        shares = self.steps.shares(step)
        return sum(shares[each] for each in self.chosen)

    def ticks(self, first: int, end: int | None) -> bool:
        """Whether there is one among the steps first <= s < end; None: without end."""
        return self(first + FOREVER if end is None else end) > self(first)


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
