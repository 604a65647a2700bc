"""Which clips are kept, against the rule taken word for word."""

import numpy as np
import pytest

from lavie.curation.dedup.keep import dropped_by, keep_best


def by_the_rule(pairs: list[tuple[int, int]], count: int) -> list[int]:
    """Take clips from the best to the worst; one that is like a kept one is dropped, for the best such."""
    result: list[int] = []
    for clip in range(count):
        kept = [a for a, b in pairs if b == clip and result[a] < 0]
        result.append(min(kept) if kept else -1)
    return result


def random_pairs(seed: int, share: float) -> list[tuple[int, int]]:
    """Return a share of all pairs of 60 clips, the better clip of each first, in any order."""
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for b in range(60) for a in range(b) if generator.random() < share]
    generator.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", (0.05, 0.3, 1.0))
@pytest.mark.parametrize("block, growth", ((60, 1.0), (7, 1.0), (2, 2.0)))
def test_as_the_rule_says_in_blocks_of_any_size(seed, share, block, growth):
    known = random_pairs(seed, share)
    asked = []

    def pairs(some, others):
        ends = some if others is None else others
        own = [(a, b) for a, b in known if a in some and b in ends]
        found = [(np.searchsorted(some, a), np.searchsorted(ends, b), a + b / 100) for a, b in own]
        asked.append(len(found))
        first, second, near = zip(*found, strict=True) if found else ((), (), ())
        return np.array(first, np.int64), np.array(second, np.int64), np.array(near)

    target, value = keep_best(60, pairs, block, growth)
    wanted = by_the_rule(known, 60)
    assert target.tolist() == wanted
    dropped = [b for b in range(60) if wanted[b] >= 0]
    assert value[dropped].tolist() == [wanted[b] + b / 100 for b in dropped]
    assert np.isnan(value).sum() == 60 - len(dropped)
    if share == 1.0 and block == 7:  # all are alike: each is compared with one, but for the first block
        assert sum(asked) == 7 * 6 // 2 + 53


def test_a_chain_does_not_drop_what_is_not_alike():
    """0 ~ 1 ~ 2 and nothing else: 1 is dropped for 0, and 2 stays, for no kept clip is like it."""
    assert dropped_by(np.array([0, 1]), np.array([1, 2]), 3).tolist() == [-1, 0, -1]


def test_without_pairs_all_are_kept():
    assert dropped_by(np.zeros(0, np.int64), np.zeros(0, np.int64), 2).tolist() == [-1, -1]
