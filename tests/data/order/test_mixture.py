"""The mixture: by weight in every window, counted exactly, and without end or memory."""

import math
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.data.order.mixture import PIECES, Mixture, StepCount, floor_sum, weight_at
from lavie.errors import ConfigError

weights = st.one_of(st.just(0.0), st.floats(0.001, 100))
knots = st.lists(st.tuples(st.integers(0, 60), weights), min_size=1, max_size=4, unique_by=lambda k: k[0]).map(sorted)


def mixture(*weights, per_step=4, seed=0, purpose="videos"):
    return Mixture(weights, [f"d{i}" for i in range(len(weights))], per_step, seed, purpose)


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 200), m=st.integers(1, 90), a=st.integers(0, 300), b=st.integers(0, 300))
def test_floor_sum_is_the_sum(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(knots, min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 2**64), st.sampled_from(["videos", "i"])
)
def test_counts_are_those_of_counting(each, per_step, seed, purpose):
    each = [[(0, 0.5)], *each]  # never all 0
    mix = mixture(*each, per_step=per_step, seed=seed, purpose=purpose)
    counts = [0] * len(each)
    for position in range(70 * per_step):
        assert mix.counts(position) == counts
        dataset, place = mix.at(position)
        assert place == counts[dataset]
        assert weight_at(each[dataset], position // per_step) > 0
        counts[dataset] += 1


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(knots, min_size=1, max_size=3),
    st.lists(knots, min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(0, 2**64),
    st.data(),
)
def test_with_a_step_count_counts_are_those_of_its_steps(turns, each, per_step, seed, data):
    turns, each = [[(0, 0.5)], *turns], [[(0, 0.5)], *each]
    steps = mixture(*turns, per_step=1, seed=seed, purpose="buckets")
    chosen = data.draw(st.sets(st.integers(0, len(turns) - 1), min_size=1))
    step_count = StepCount(steps, tuple(chosen))
    mix = Mixture(each, [f"d{i}" for i in range(len(each))], per_step, seed, "videos", step_count)
    counts, counted = [0] * len(each), 0
    for step in range(70):
        assert step_count.before(step) == counted and mix.counts(step * per_step) == counts
        assert step_count.share(step) == pytest.approx(sum(steps.shares(step)[c] for c in chosen))
        if steps.at(step)[0] not in chosen:
            continue
        counted += 1
        for position in range(step * per_step, (step + 1) * per_step):
            dataset, place = mix.at(position)
            assert place == counts[dataset]
            assert weight_at(each[dataset], step) > 0  # the weight of the run's step, not of its number in the count
            counts[dataset] += 1


def test_a_step_count_that_stops_needs_no_weights_afterwards():
    steps = mixture([(0, 1.0)], [(0, 1.0), (300, 0.0)], per_step=1)
    step_count = StepCount(steps, (1,), " in bucket b")
    mix = Mixture([[(0, 1.0), (300, 0.0)]], ["d"], 4, 0, "videos", step_count)
    assert mix.counts(4 * 300) == mix.counts(10**9) == [4 * step_count.before(300)]
    assert mix.shares(300) == [0] and step_count.share(300) == 0
    with pytest.raises(
        ConfigError, match=r"at step 250 the weights of all datasets with videos in bucket b are 0 \(d\)"
    ):
        Mixture([[(0, 1.0), (250, 0.0)]], ["d"], 4, 0, "videos", step_count)


def test_counts_far_out_agree_with_counting_on_from_there():
    mix = mixture([(0, 3.0), (10**6, 1.0)], [(0, 1.0), (7 * 10**5, 2.5)], [(3, 0.25)], per_step=1024, seed=9)
    for start in (0, 10**6 * 512 + 13, 10**6 * 1024 - 500, 10**12):
        counts = mix.counts(start)
        assert sum(counts) == start
        for position in range(start, start + 1000):
            dataset, place = mix.at(position)
            assert place == counts[dataset]
            counts[dataset] += 1
        assert mix.counts(start + 1000) == counts


@pytest.mark.parametrize("shares", ((0.5, 0.5), (0.7, 0.2, 0.1), (0.99, 0.01), (1 / 3, 1 / 3, 1 / 3)))
def test_every_window_holds_the_shares(shares):
    mix = mixture(*([(0, w)] for w in shares), seed=5)
    for length in (1, 2, 5, 10, 100, 1000, 100_000):
        for start in (*range(0, 400, 7), 10**9 + 1):
            taken = [b - a for a, b in zip(mix.counts(start), mix.counts(start + length), strict=True)]
            for count, share in zip(taken, shares, strict=True):
                assert abs(count - length * share) <= 1.5 + 0.25 * math.log2(length)


def test_shares_follow_the_knots():
    mix = mixture([(0, 1.0)], [(1000, 0.0), (2000, 3.0)], per_step=100)
    assert mix.shares(0) == mix.shares(999) == [1, 0]
    assert mix.shares(2000) == mix.shares(10**9) == [0.25, 0.75]
    for step in range(1000, 2000, 37):
        weight = 3 * (step - 1000) / 1000
        assert mix.shares(step)[1] == pytest.approx(weight / (1 + weight), abs=3 / 2 / PIECES)
    assert mix.counts(100_000) == [100_000, 0]
    expected = sum(w / (1 + w) for w in (3 * i / 1000 for i in range(1000))) * 100
    assert mix.counts(200_000)[1] == pytest.approx(expected, rel=1e-4)


def test_short_pieces_are_exact():
    mix = mixture([(0, 1.0), (100, 0.0)], [(0, 0.0), (100, 1.0)], per_step=10)
    for step in range(101):
        assert mix.shares(step) == pytest.approx([1 - step / 100, step / 100], abs=1e-15)


@given(knots, st.integers(0, 80))
def test_weights_are_linear_between_the_knots(each, step):
    before = [k for k in each if k[0] <= step]
    after = [k for k in each if k[0] >= step]
    (s0, w0), (s1, w1) = (before or after)[-1 if before else 0], (after or before)[0 if after else -1]
    t = Fraction(step - s0, s1 - s0) if s1 > s0 else 0
    assert weight_at(each, step) == Fraction(w0) * (1 - t) + Fraction(w1) * t


def test_one_dataset_takes_every_position():
    mix = mixture([(0, 0.3)])
    assert [mix.at(p) for p in (0, 1, 10**15)] == [(0, 0), (0, 1), (0, 10**15)]
    assert mix.counts(77) == [77]


def test_seed_and_purpose_change_the_choice():
    choices = {
        tuple(mixture([(0, 1.0)], [(0, 1.0)], seed=s, purpose=p).at(i)[0] for i in range(200))
        for s in (0, 1)
        for p in ("videos", "images")
    }
    assert len(choices) == 4


def test_all_weights_0_are_refused():
    with pytest.raises(ConfigError, match=r"at step 0 the weights of all datasets with videos are 0 \(d0, d1\)"):
        mixture([(0, 0.0), (9, 1.0)], [(0, 0.0), (50, 1.0)])
    with pytest.raises(ConfigError, match="at step 20 the weights"):
        mixture([(0, 1.0), (20, 0.0)])


@pytest.mark.slow
def test_a_million_steps_take_no_memory():
    mix = mixture([(0, 1.0), (10**6, 0.2)], [(0, 0.0), (10**6, 1.0)], per_step=32)
    mix.at(0)
    tracemalloc.start()
    for step in range(0, 10**6, 100):
        mix.at(32 * step)
    grown, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2_000 and peak < 20_000
