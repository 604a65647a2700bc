"""The analysis on made-up results whose verdicts are known."""

import numpy as np
import pytest

from lavie.errors import DataError
from lavie.evaluation.ablation.analysis import (
    NOT_SEEN,
    SEEN,
    UNDECIDABLE,
    analyse,
    by_seed,
    difference,
    judge_claim,
    measures_of,
)
from lavie.evaluation.ablation.plan import Claim
from lavie.evaluation.ablation.tables import ABLATIONS
from tests.evaluation.ablation.made_up import judged, result, shares

CLAIM = Claim("a is better than b", "clips.colour", "a", "b")


def pairs(a, b, measure="clips.colour"):
    """Results of two arms, a list of counts of 48 for each."""
    arms = {"a": a, "b": b}
    return [judged(arm, seed, measure, shares(n)) for arm, counts in arms.items() for seed, n in enumerate(counts)]


@pytest.mark.parametrize(
    "a, b, verdict",
    (
        ([43, 44, 42, 43, 45], [30, 31, 33, 29, 30], SEEN),
        ([30, 31, 33, 29, 30], [43, 44, 42, 43, 45], NOT_SEEN),
        ([36, 30, 40, 33, 36], [35, 34, 33, 36, 37], UNDECIDABLE),
        ([48, 48, 48, 48, 48], [48, 48, 48, 48, 48], UNDECIDABLE),
        ([48, 10, 10, 11, 10], [10, 10, 10, 10, 10], UNDECIDABLE),  # one seed alone makes the mean
    ),
)
def test_verdicts(a, b, verdict):
    assert judge_claim(CLAIM, pairs(a, b)).verdict == verdict


def test_numbers_of_a_difference():
    found = difference(pairs([40, 44], [30, 32]), "clips.colour", "a", "b")
    assert found.by_seed == pytest.approx({0: 10 / 48, 1: 12 / 48})
    assert found.mean == pytest.approx(11 / 48)
    # Student's t of one degree of freedom at 97.5 % is 12.706; the standard error of 10 and 12 is 1.
    assert found.student == pytest.approx(((11 - 12.7062) / 48, (11 + 12.7062) / 48), rel=1e-5)
    assert (found.above, found.p) == (2, 0.25)


def test_seeds_are_paired_by_their_numbers():
    """Seeds that lie far apart, with a small difference within each: unpaired, nothing could be told."""
    results = [
        result(arm, seed, values={"validation_loss": 0.1 * seed + shift + 0.0001 * seed})
        for arm, shift in (("a", 0.0), ("b", 0.01))
        for seed in (range(5) if arm == "a" else reversed(range(6)))
    ]
    claim = Claim("a loses less", "validation_loss", "a", "b", lower=True)
    finding = judge_claim(claim, results)
    assert finding.verdict == SEEN
    assert finding.difference.by_seed == pytest.approx(dict.fromkeys(range(5), 0.01))


def test_lower_turns_the_sign():
    claim = Claim("a is lower", "clips.colour", "a", "b", lower=True)
    assert judge_claim(claim, pairs([10, 11, 9, 10, 12], [30, 31, 33, 29, 30])).verdict == SEEN


@pytest.mark.parametrize(
    "a, b, margin, verdict, above",
    (
        ([44, 45, 43, 44, 46], [20, 22, 21, 19, 20], 0.3, SEEN, 5),  # about 50 points
        ([44, 45, 43, 44, 46], [34, 35, 35, 33, 34], 0.3, NOT_SEEN, 0),  # about 20 points
        ([40, 41, 40, 40, 41], [40, 41, 40, 41, 40], -0.1, SEEN, 5),  # kept, less 10 points at most
    ),
)
def test_margins(a, b, margin, verdict, above):
    finding = judge_claim(Claim("by so much", "clips.colour", "a", "b", margin=margin), pairs(a, b))
    assert (finding.verdict, finding.difference.above) == (verdict, above)


@pytest.mark.parametrize("a, verdict", (([45, 46, 45, 44, 45], SEEN), ([30, 31, 30, 29, 30], NOT_SEEN)))
def test_a_measure_alone_is_compared_with_the_margin(a, verdict):
    claim = Claim("a keeps 80 %", "clips.colour", "a", margin=0.8)
    assert judge_claim(claim, pairs(a, [])).verdict == verdict


def test_a_single_seed_decides_nothing():
    finding = judge_claim(CLAIM, pairs([48], [0]))
    assert (finding.verdict, finding.why) == (UNDECIDABLE, "a single seed")


def test_both_intervals_must_agree():
    """Two seeds: the bootstrap would see the difference, Student's t with one degree of freedom does not."""
    finding = judge_claim(CLAIM, pairs([40, 46], [30, 30]))
    assert finding.difference.resampled[0] > 0 > finding.difference.student[0]
    assert finding.verdict == UNDECIDABLE


def test_samples_that_one_arm_cannot_measure_do_not_count():
    a, b = judged("a", 0, "m.x", [1.0, None, 5.0]), judged("b", 0, "m.x", [0.5, 7.0, 3.5])
    assert difference([a, b], "m.x", "a", "b").mean == pytest.approx(1.0)
    lost = judged("b", 0, "m.x", [None, None, None])
    assert difference([a, lost], "m.x", "a", "b") is None
    assert judge_claim(Claim("a", "m.x", "a", "b"), [a, lost]).why == "nothing could be measured"


def test_arms_with_other_numbers_of_samples_are_refused():
    results = [judged("rope", 0, "m", [1.0, 0.0]), judged("absolute", 0, "m", [1.0, 0.0, 1.0])]
    with pytest.raises(DataError, match="m, seed 0: 2 samples of the arm rope and 3 of absolute"):
        difference(results, "m", "rope", "absolute")


def test_without_results_nothing_is_claimed():
    for ablation in ABLATIONS.values():
        for finding in analyse(ablation, []):
            assert (finding.verdict, finding.why, finding.difference) == (UNDECIDABLE, "not run yet", None)


@pytest.mark.slow
def test_false_claims_are_rarely_seen():
    """Of 60 ablations whose arms are alike, the 2.5 % of one side at most: 5 or more would come once in 70 times."""
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        a, b = rng.binomial(48, rng.beta(6, 6, (2, 5)))
        seen += judge_claim(CLAIM, pairs(a, b)).verdict == SEEN
    assert seen <= 4


def test_values_by_seed_and_names():
    results = [result("a", 2, values={"x": 1.0, "y": None}), result("a", 0, values={"x": 3.0}), result("b", 0)]
    assert by_seed(results, "a", "x") == {0: 3.0, 2: 1.0}
    assert list(by_seed(results, "a", "x")) == [0, 2]
    assert by_seed(results, "a", "y") == {}
    assert measures_of(results) == ["x", "y"]
