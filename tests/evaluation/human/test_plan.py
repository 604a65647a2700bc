from collections import Counter

import pytest
from pydantic import ValidationError

from lavie.evaluation.human.plan import Design, Shown, Trial, plan


def pair_of(trial):
    return frozenset((trial.left, trial.right))


@pytest.fixture(scope="module")
def places():
    return plan(Design(raters=8, pairs=10, ratings=6), models=3, items=9, seed=1)


def test_every_pair_is_shown_both_ways(places):
    for first, second in zip(places[::2], places[1::2], strict=True):
        a, b = ([t for t in place if t.kind != "rating"] for place in (first, second))
        assert [(t.kind, t.left, t.right) for t in a] == [(t.kind, t.right, t.left) for t in b]
    ways = Counter((t.left, t.right) for place in places for t in place if t.kind == "pair")
    assert all(ways[left, right] == ways[right, left] for left, right in ways)


def test_pairs_are_of_one_prompt_and_index_and_of_two_models(places):
    for place in places:
        for trial in place:
            if trial.kind in ("pair", "repeat"):
                assert trial.left.item == trial.right.item and trial.left.model != trial.right.model
                assert not trial.left.copy and not trial.right.copy


def test_votes_spread_evenly(places):
    """Four couples of ten pairs: forty places for twenty-seven pairs of clips."""
    seen = Counter(pair_of(t) for place in places for t in place if t.kind == "pair")
    assert len(seen) == 27 and set(seen.values()) == {2, 4}


def test_a_rater_sees_golden_pairs_and_repeats(places):
    for place in places:
        kinds = Counter(trial.kind for trial in place)
        assert kinds == {"pair": 10, "golden": 1, "repeat": 1, "rating": 6}
        [golden] = [t for t in place if t.kind == "golden"]
        assert sorted((golden.left, golden.right), key=lambda c: c.copy) == [
            Shown(golden.left.model, golden.left.item),
            Shown(golden.left.model, golden.left.item, copy=True),
        ]
        [again] = [t for t in place if t.kind == "repeat"]
        assert place.index(Trial("pair", again.right, again.left)) < place.index(again)


def test_ratings_come_last_and_cover_every_model(places):
    for place in places:
        assert [t.kind for t in place[-6:]] == ["rating"] * 6
        rated = {(t.left.item, t.left.model) for t in place[-6:]}
        assert len(rated) == 6 and len({item for item, _ in rated}) == 2


def test_sides_are_drawn_at_random():
    [first, _] = plan(Design(raters=2, pairs=400, ratings=0), models=2, items=400, seed=0)
    left = sum(t.left.model == 0 for t in first if t.kind == "pair")
    assert 160 < left < 240
    assert sum(t.left.copy for t in first if t.kind == "golden") not in (0, 40)


def test_a_small_study_has_all_there_is():
    for place in plan(Design(raters=2), models=2, items=1, seed=0):
        assert Counter(t.kind for t in place) == {"pair": 1, "golden": 1, "repeat": 1, "rating": 2} or Counter(
            t.kind for t in place
        ) == {"pair": 1, "golden": 1, "rating": 2}


def test_the_seed_decides():
    design = Design(raters=4, pairs=5)
    assert plan(design, 2, 9, seed=1) == plan(design, 2, 9, seed=1) != plan(design, 2, 9, seed=2)


def test_an_odd_number_of_raters_is_refused():
    with pytest.raises(ValidationError, match="wanted an even number"):
        Design(raters=7)
