"""Choose the dataset of each position of a run, as a pure function of the position that can be counted exactly.

The rule: write M = 2**64, A = GOLDEN, and U for an offset drawn from the seed. Thresholds T[0] = 0 <= T[1] <= ... <= M
divide [0, M) among the datasets by their weights. Position p has the number x(p) = (A p + U) mod M and takes the
dataset d with T[d] <= x(p) < T[d + 1]. The numbers x(p) are a Weyl sequence of the golden ratio: in any window of n
positions every dataset gets its share up to a few samples (the discrepancy is O(log n / n)).

Why it can be counted: how many of the positions 0 <= p < n have x(p) < T? Divide A p + U by M: the quotient is q and
the remainder x(p). Dividing A p + U - T instead gives the quotient q - 1 if x(p) < T, and q if not. So

    [x(p) < T] = floor((A p + U) / M) - floor((A p + U - T) / M)

and summing over p gives the count as the difference of two sums of floors, which `floor_sum` finds exactly in O(log n).
The count for the dataset d is the one for T[d + 1] less the one for T[d].

So every dataset knows how often it was taken before any position: it goes through its own permutations without gap or
repeat, and a run resumes anywhere at once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from ...errors import ConfigError
from ...seeds import key64

Knots = Sequence[tuple[int, float]]
"""A weight over the steps of a run: (step, weight) with ascending steps, linear between them and constant outside."""

MODULUS = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, odd. Of all strides its multiples spread most evenly over [0, 2**64)."""
PIECES = 256
"""Most pieces of constant weights between two knots, each with the weights of its middle. A weight is off by at most
1/512 of its change from knot to knot; where knots are at most 256 steps apart, every step has its exact weights."""
FOREVER = 1 << 48
"""More steps than any run has."""


def weight_at(knots: Knots, step: int | Fraction) -> Fraction:
    """Return the weight at a step, exactly."""
    after = bisect_right(knots, step, key=lambda knot: knot[0])
    if after in (0, len(knots)):
        return Fraction(knots[max(0, after - 1)][1])
    (s0, w0), (s1, w1) = knots[after - 1], knots[after]
    return Fraction(w0) + (Fraction(w1) - Fraction(w0)) * Fraction(step - s0) / (s1 - s0)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return the sum of (a i + b) // m over 0 <= i < n, for n, a, b >= 0 and m >= 1, in O(log) steps.

    1. Split whole multiples of m off a and b. They add i (a // m) + b // m to term i.
    2. The rest, with a, b < m, counts the lattice points (i, j) with 1 <= j and m j <= a i + b, column by column.
    3. Counting the same points row by row is a sum of the same form with a and m exchanged, as in Euclid's algorithm.
    """
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        n, b = divmod(a * n + b, m)
        m, a = a, m
    return total


class Mixture:
    """The choice of a dataset for every position, by weights that depend on the step.

    `Buckets` choose the size of each step in the same way: their mixture has one position to a step, and the "datasets"
    are the buckets.

    Where `step_count` is given, only the steps that it counts belong to the mixture. Their positions are numbered
    without gaps (the "counted positions"); `at` takes no others, and counts leave out the others.
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
        """Prepare the thresholds and the counts of every piece of constant weights.

        Args:
            weights: for each dataset.
            names: of the datasets, for errors.
            per_step: positions of one step, from 1.
            seed: of the run. With `purpose` it draws the offset U.
            purpose: what the positions hold, as "videos".
            step_count: the steps whose positions are taken; None: all.

        Raises:
            ConfigError: if all weights are 0 at a step that is counted.
        """
        self._size, self._per_step, self._step_count = len(weights), per_step, step_count
        self._offset = key64(seed, f"{purpose} mixture")
        self._first_steps = _first_steps(weights)

        # Each piece of constant weights has its thresholds: T[0] = 0 <= ... <= T[datasets] = M, or zeros throughout if
        # none of its steps is counted.
        ends = [*self._first_steps[1:], self._first_steps[-1] + 1]
        self._thresholds = []
        for first, end in zip(self._first_steps, ends, strict=True):
            parts = [weight_at(knots, Fraction(first + end - 1, 2)) for knots in weights]
            if not any(parts) and (step_count is None or step_count.any_in(first, None if end == ends[-1] else end)):
                raise ConfigError(
                    f"data.train: at step {first} the weights of all datasets with {purpose}"
                    f"{step_count.suffix if step_count else ''} are 0 ({', '.join(names)}): give one of them a weight "
                    "there"
                )
            total = sum(parts) or Fraction(1)
            self._thresholds.append([0, *(int(part * MODULUS / total) for part in accumulate(parts))])

        # A count starts from the piece of its position, so all pieces before that are counted once, here.
        self._starts = [self._counted(first * per_step) for first in self._first_steps]
        self._before = [[0] * self._size]
        for piece, (start, end) in enumerate(pairwise(self._starts)):
            taken = [self._count_in_piece(start, end, piece, d) for d in range(self._size)]
            self._before.append([a + b for a, b in zip(self._before[-1], taken, strict=True)])

    def at(self, position: int) -> tuple[int, int]:
        """Return the dataset that a position takes, and how many positions before it took the same."""
        position = self._counted(position)
        if self._size == 1:
            return 0, position
        piece = bisect_right(self._starts, position) - 1
        x = (GOLDEN * position + self._offset) % MODULUS
        dataset = bisect_right(self._thresholds[piece], x) - 1
        return dataset, self._count_before(position, piece, dataset)

    def counts(self, position: int) -> list[int]:
        """Return how many of the positions before this one took each dataset."""
        return [self.count(position, d) for d in range(self._size)]

    def count(self, position: int, dataset: int) -> int:
        """Return how many of the positions before this one took a dataset."""
        position = self._counted(position)
        return self._count_before(position, bisect_right(self._starts, position) - 1, dataset)

    def shares(self, step: int) -> list[float]:
        """Return the share of each dataset in the positions of a step: their sum is 1, or 0 if no step is counted."""
        thresholds = self._thresholds[bisect_right(self._first_steps, step) - 1]
        return [(high - low) / MODULUS for low, high in pairwise(thresholds)]

    def _counted(self, position: int) -> int:
        """Return the number of a position of the run among the counted positions."""
        if self._step_count is None:
            return position
        step, place = divmod(position, self._per_step)
        return self._step_count.before(step) * self._per_step + place

    def _count_before(self, position: int, piece: int, dataset: int) -> int:
        """Return how many counted positions before `position`, which lies in `piece`, take a dataset."""
        return self._before[piece][dataset] + self._count_in_piece(self._starts[piece], position, piece, dataset)

    def _count_in_piece(self, start: int, end: int, piece: int, dataset: int) -> int:
        """Return how many of the counted positions start <= p < end, all of one piece, take a dataset."""
        low, high = self._thresholds[piece][dataset : dataset + 2]
        offset = (GOLDEN * start + self._offset) % MODULUS
        # The module's formula for T = high less that for T = low: their terms without T cancel. One more M in both
        # keeps the floor sums' terms from being negative, and cancels too.
        sum_low = floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - low)
        sum_high = floor_sum(end - start, MODULUS, GOLDEN, offset + MODULUS - high)
        return sum_low - sum_high


@dataclass(frozen=True)
class StepCount:
    """A count of some steps of a run: those at which a mixture of the steps takes one of `chosen`."""

    steps: Mixture
    """Divides the steps, one position to a step."""
    chosen: tuple[int, ...]
    """Numbers in that mixture, as of the buckets of one height and width."""
    suffix: str = ""
    """For errors about these steps, as " in bucket 16x320x512"."""

    def before(self, step: int) -> int:
        """Return how many of the counted steps come before a step of the run."""
        return sum(self.steps.count(step, number) for number in self.chosen)

    def share(self, step: int) -> float:
        """Return the share of the counted steps, in [0, 1], around a step of the run."""
        shares = self.steps.shares(step)
        return sum(shares[number] for number in self.chosen)

    def any_in(self, first: int, end: int | None) -> bool:
        """Return whether one of the steps first <= s < end is counted; with None for `end`, of all from `first` on."""
        return self.before(first + FOREVER if end is None else end) > self.before(first)


def _first_steps(weights: Sequence[Knots]) -> list[int]:
    """Return the first step of each piece of constant weights, ascending from 0.

    A piece begins at every knot of any dataset. Between two knots there are PIECES of them, or one for each step if the
    steps are fewer. The last piece has no end.
    """
    knots = sorted({0, *(step for dataset_knots in weights for step, _ in dataset_knots)})
    firsts = []
    for knot, next_knot in pairwise(knots):
        pieces = min(PIECES, next_knot - knot)
        firsts += [knot + (next_knot - knot) * i // pieces for i in range(pieces)]
    return [*firsts, knots[-1]]
