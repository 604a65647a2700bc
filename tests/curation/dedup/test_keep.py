"""Which clips are kept, against the rule taken word for word."""

import numpy as np
import pytest

from lavie.curation.dedup.keep import best_kept


def by_the_rule(pairs: list[tuple[int, int]], count: int) -> list[int]:
    """Take clips from the best to the worst; one that is like a kept one is dropped, for the best such."""
    result = []
    for clip in range(count):
        kept = [(a, i) for i, (a, b) in enumerate(pairs) if b == clip and result[a] < 0]
        result.append(min(kept)[1] if kept else -1)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_as_the_rule_says(seed):
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for b in range(60) for a in range(b) if generator.random() < 0.05]
    generator.shuffle(pairs)
    first, second = np.array(pairs).T
    assert best_kept(first, second, 60).tolist() == by_the_rule(pairs, 60)


def test_a_chain_does_not_drop_what_is_not_alike():
    """0 ~ 1 ~ 2 and nothing else: 1 is dropped for 0, and 2 stays, for no kept clip is like it."""
    assert best_kept(np.array([0, 1]), np.array([1, 2]), 3).tolist() == [-1, 0, -1]


def test_without_pairs_all_are_kept():
    assert best_kept(np.zeros(0, np.int64), np.zeros(0, np.int64), 2).tolist() == [-1, -1]
