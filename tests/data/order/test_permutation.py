"""The order: bijective, seeded, and the same for any number of ranks and from any step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.data.order.permutation import Permutation, image_positions, positions, sample_at, spare_at


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 2**64), epoch=st.integers(0, 2**40))
def test_permutation_is_a_bijection(n, seed, epoch):
    assert sorted(map(Permutation(n, seed, epoch), range(n))) == list(range(n))


def test_permutation_of_a_billion_needs_no_memory_and_stays_inside():
    permute = Permutation(10**9 + 7, 0, 0)
    values = {permute(i) for i in range(2000)}
    assert len(values) == 2000
    assert max(values) > 9 * 10**8 > 10**8 > min(values)


def test_permutation_depends_on_seed_epoch_and_purpose():
    keys = [(0, 0, "order"), (1, 0, "order"), (0, 1, "order"), (0, 0, "other")]
    orders = [[Permutation(100, *key)(i) for i in range(100)] for key in keys]
    for i, a in enumerate(orders):
        for b in orders[i + 1 :]:
            assert np.mean(np.array(a) == np.array(b)) < 0.1


def test_every_place_gets_every_sample_about_equally_often():
    n, epochs = 10, 4000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        permute = Permutation(n, 3, epoch)
        for place in range(n):
            counts[place, permute(place)] += 1
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 81 + 5 * np.sqrt(2 * 81)


def test_neighbours_in_the_index_do_not_stay_neighbours():
    order = np.array([Permutation(1000, 0, 0)(i) for i in range(1000)])
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.15


def test_each_epoch_holds_every_sample_once():
    picked = [sample_at(p, 7, seed=5) for p in range(21)]
    assert all(sorted(picked[e : e + 7]) == list(range(7)) for e in (0, 7, 14))
    assert picked[:7] != picked[7:14]


@pytest.mark.parametrize("world_size", (1, 2, 4, 8))
def test_ranks_split_each_step_without_gap_or_overlap(world_size):
    taken = [p for step in range(5) for rank in range(world_size) for p in positions(step, 8, rank, world_size)]
    assert taken == list(range(40))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="6 does not divide among 4"):
        positions(0, 6, 0, 4)


def test_image_positions_follow_the_clips():
    assert [list(image_positions(p, 3)) for p in (0, 1)] == [[0, 1, 2], [3, 4, 5]]
    assert list(image_positions(9, 0)) == []


def test_spares_differ_by_attempt_and_lie_inside():
    spares = [spare_at(3, attempt, 1000, seed=0) for attempt in range(1, 21)]
    assert len(set(spares)) > 15
    assert all(0 <= s < 1000 for s in spares)
    assert spares == [spare_at(3, attempt, 1000, seed=0) for attempt in range(1, 21)]


@pytest.mark.parametrize("i", (-1, 5))
def test_places_outside_are_refused(i):
    with pytest.raises(IndexError):
        Permutation(5, 0, 0)(i)
