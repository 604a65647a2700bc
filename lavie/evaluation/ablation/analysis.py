"""What the results of an ablation say: means of arms, paired differences, and a verdict on every claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ...errors import DataError
from .plan import Ablation, Claim
from .results import Result
from .statistics import Interval, bootstrap, paired_t, sign_test

SEEN, NOT_SEEN, UNDECIDABLE = "seen", "not seen", "undecidable"


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms in one measure, over the seeds that both have."""

    by_seed: dict[int, float]
    mean: float
    student: Interval | None
    """95 % by Student's t over seeds; None for a single seed."""
    resampled: Interval | None
    """95 % by the bootstrap over seeds, then clips."""
    above: int
    """Seeds whose difference is above the margin."""
    p: float
    """The exact sign test's of the differences less the margin, one-sided."""


@dataclass(frozen=True)
class Finding:
    """A claim, what was measured, and the verdict."""

    claim: Claim
    difference: Difference | None
    """The effect, which is positive in the claim's direction; None where nothing was measured."""
    verdict: str
    """SEEN, NOT_SEEN or UNDECIDABLE."""
    why: str
    """The verdict's reason, in words."""


def by_seed(results: Sequence[Result], arm: str, measure: str) -> dict[int, float]:
    """Return the values of a measure of an arm by seed, ascending."""
    found = {r.seed: r.values.get(measure) for r in results if r.arm == arm}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def measures_of(results: Sequence[Result]) -> list[str]:
    """Return the names of all measures, in the order of the results."""
    return list(dict.fromkeys(name for result in results for name in result.values))


def difference(
    results: Sequence[Result], measure: str, arm: str, other: str | None, *, sign: int = 1, margin: float = 0.0
) -> Difference | None:
    """Return the measure of one arm less that of another, or the measure itself, over seeds.

    A sample that only one of the two arms can be measured on does not count.

    Args:
        results: of one ablation.
        measure: its name.
        arm: the name of the first arm.
        other: that of the second; None: nothing is taken away.
        sign: 1, or -1 for the negative of that.
        margin: what the sign test compares with.

    Returns:
        None where no seed has both.

    Raises:
        DataError: the two arms have different numbers of samples.
    """
    found = {(result.arm, result.seed): result for result in results}
    seeds = sorted(seed for name, seed in found if name == arm and (other is None or (other, seed) in found))
    clips: dict[int, np.ndarray] = {}
    for seed in seeds:
        values = _samples(found[arm, seed], measure)
        if other is not None:
            others = _samples(found[other, seed], measure)
            if len(values) != len(others):
                raise DataError(
                    f"{measure}, seed {seed}: {len(values)} samples of the arm {arm} and {len(others)} of {other}: "
                    "wanted the same samples of both"
                )
            values = values - others
        if not np.isnan(values).all():
            clips[seed] = sign * values
    if not clips:
        return None
    means = {seed: float(np.nanmean(values)) for seed, values in clips.items()}
    numbers = list(means.values())
    beyond = [number - margin for number in numbers]
    return Difference(
        means,
        fmean(numbers),
        paired_t(numbers),
        bootstrap(list(clips.values())),
        sum(number > 0 for number in beyond),
        sign_test(beyond),
    )


def _samples(result: Result, measure: str) -> np.ndarray:
    """Return the scores of the samples, float64 (n,), NaN where there is none; or the one value of a measure."""
    scores = result.scores.get(measure, [result.values.get(measure)])
    return np.array([np.nan if score is None else score for score in scores], float)


def judge_claim(claim: Claim, results: Sequence[Result]) -> Finding:
    """Return the verdict on a claim.

    1. Seen: both 95 % intervals, by Student's t over seeds and by the bootstrap, lie above the margin.
    2. Not seen: both lie below it.
    3. Undecidable: anything else, also where there are fewer than two seeds.
    """
    sign = -1 if claim.lower else 1
    found = difference(results, claim.measure, claim.arm, claim.other, sign=sign, margin=claim.margin)
    if found is None:
        run = {claim.arm, claim.other or claim.arm} <= {result.arm for result in results}
        return Finding(claim, None, UNDECIDABLE, "nothing could be measured" if run else "not run yet")
    if found.student is None or found.resampled is None:
        return Finding(claim, found, UNDECIDABLE, "a single seed")
    intervals = found.student, found.resampled
    if all(low > claim.margin for low, _ in intervals):
        return Finding(claim, found, SEEN, "both intervals lie above the margin")
    if all(high < claim.margin for _, high in intervals):
        return Finding(claim, found, NOT_SEEN, "both intervals lie below the margin")
    return Finding(claim, found, UNDECIDABLE, "an interval holds the margin")


def analyse(ablation: Ablation, results: Sequence[Result]) -> list[Finding]:
    """Return the verdicts on the claims of an ablation, in their order."""
    return [judge_claim(claim, results) for claim in ablation.claims]
