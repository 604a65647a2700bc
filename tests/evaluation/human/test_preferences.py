import numpy as np
import pytest

from lavie.evaluation.human.agreement import krippendorff
from lavie.evaluation.human.answers import Answer
from lavie.evaluation.human.preferences import by_item, pair_agreement, pair_votes, preferences, strengths
from tests.evaluation.human.studies import rng, some_key, vote

MODELS = ("ours", "theirs", "third")
WORTH = (3.0, 1.0, 0.7)


def say(key, choose):
    """The answer that `choose` gives to each pair, golden pair and repeat."""
    return [
        Answer(f"{t.place:08x}", name, "overall", choose(t, key.clips[t.left].model), 1.0, "2026-01-01T00:00:00Z")
        for name, t in key.trials.items()
        if t.kind != "rating"
    ]


@pytest.fixture(scope="module")
def key():
    return some_key(MODELS, prompts=20, raters=20, pairs=30)


@pytest.fixture(scope="module")
def votes(key):
    return pair_votes(vote(key, rng(1), WORTH, ties=0.2), key)


def test_sides_do_not_matter(key):
    """Whoever is on the left, the model that was named first wins against the others."""
    found = pair_votes(say(key, lambda t, left: "left" if left == "ours" else "right"), key)
    ours = found.first == 0
    assert (found.score[ours] == 1).all() and ours.any() and not ours.all()
    assert (found.first < found.second).all()


def test_golden_pairs_and_repeats_are_left_out(key, votes):
    assert len(votes.score) == sum(t.kind == "pair" for t in key.trials.values()) == 600


def test_shares_are_those_of_the_votes():
    """Two raters, by hand: the first always says left, the second right, which is the same clip."""
    small = some_key(models=("a", "b"), prompts=3, raters=2, pairs=3, ratings=0, seed=0)
    answers = say(small, lambda t, left: "right" if t.place else "left")
    lefts = [small.clips[t.left].model for t in small.trials.values() if t.kind == "pair" and t.place == 0]
    [pair] = preferences(pair_votes(answers, small), ("a", "b"), seed=0)
    assert (pair["wins"], pair["losses"], pair["ties"]) == (2 * lefts.count("a"), 2 * lefts.count("b"), 0)
    assert pair["share"] == pytest.approx(lefts.count("a") / 3)


def test_ties_are_half_a_win_or_left_out(key):
    found = pair_votes(say(key, lambda t, left: "tie" if t.place % 2 else "left" if left == "ours" else "right"), key)
    first = preferences(found, MODELS, seed=0)[0]
    assert first["share"] == pytest.approx(0.75) and first["without_ties"]["share"] == 1
    assert first["ties"] == first["wins"] == first["without_ties"]["votes"]
    assert first["verdict"] == "ours is preferred"
    low, high = first["without_ties"]["interval"]
    assert low < 1 and high == pytest.approx(1)


def test_alike_models_are_undecidable(key):
    for pair in preferences(pair_votes(vote(key, rng(4), (1, 1, 1)), key), MODELS, seed=0):
        low, high = pair["interval"]
        assert low < 0.5 < high and pair["verdict"] == "undecidable"


@pytest.mark.parametrize("ties", (False, True))
def test_strengths_follow_the_worth(votes, ties):
    models = strengths(votes, MODELS, seed=0, ties=ties)["models"]
    for name, worth in zip(("ours", "theirs"), WORTH, strict=False):
        low, high = models[name]["interval"]
        assert low < models[name]["strength"] < high and high - low < 1
        assert abs(models[name]["strength"] - np.log(worth / WORTH[2])) < 0.5
    assert models["third"]["strength"] == 0 and models["third"]["interval"] is None
    assert models["ours"]["elo"] == pytest.approx(models["ours"]["strength"] * 400 / np.log(10))


def test_agreement_is_over_each_pair_of_clips(key, votes):
    same = pair_agreement(pair_votes(say(key, lambda t, left: "left" if t.left < t.right else "right"), key))
    assert same == {"krippendorff_nominal": 1, "fleiss": 1}
    by_hand = {}
    for item, a, b, score in zip(votes.items, votes.first, votes.second, votes.score, strict=True):
        by_hand.setdefault((item, a, b), [0, 0, 0])[int(2 * score)] += 1
    counts = np.array(list(by_hand.values()))
    assert pair_agreement(votes)["krippendorff_nominal"] == pytest.approx(krippendorff(counts, "nominal"), abs=1e-12)


def test_scores_by_sample(key, votes):
    scores = by_item(votes, key)
    assert len(scores) == 20 and scores.keys() >= {"prompt 0 [0]", "prompt 19 [0]"}
    ours = (votes.first == 0) & (votes.items == 3)
    assert scores["prompt 3 [0]"] == pytest.approx(votes.score[ours].mean())
