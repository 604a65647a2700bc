"""Pairs of hashes that differ in few bits, against a comparison of all with all."""

import numpy as np
import pytest

from lavie.curation.dedup import bands
from lavie.curation.dedup.bands import BANDS, BITS, WORD_BITS, WORDS, count_bits, count_by_sums, near_pairs, shares


def all_pairs(hashes: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """Compare all with all, in Python's own integers."""
    numbers, found = whole(hashes), []
    for i, one in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            if (bits := (one ^ numbers[j]).bit_count()) <= most:
                found.append((i, j, bits))
    return found


def whole(hashes: np.ndarray) -> list[int]:
    """Return each hash as one integer."""
    return [sum(int(word) << 64 * i for i, word in enumerate(row)) for row in hashes]


def flipped(row: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a hash with the bits at some places, 0 to BITS - 1, turned."""
    changed = row.copy()
    for place in places.tolist():
        changed[place // WORD_BITS] ^= np.uint64(1) << np.uint64(place % WORD_BITS)
    return changed


def hashes_at_every_distance(generator: np.random.Generator, roots: int) -> np.ndarray:
    """Return random hashes, each with others that differ from it in 1, 2, ... 60 bits, of all or of one word."""
    rows = []
    for _ in range(roots):
        root = generator.integers(0, 1 << WORD_BITS, WORDS, dtype=np.uint64)
        rows.append(root)
        for bits in range(1, 61):
            rows.append(flipped(root, generator.permutation(BITS)[:bits]))
            rows.append(flipped(root, generator.permutation(max(bits, WORD_BITS))[:bits]))
    return np.unique(np.array(rows), axis=0)


@pytest.mark.parametrize("most", (0, 1, 3, 11, 12, 37, 50))
def test_no_pair_is_missed_and_none_is_made_up(most):
    hashes = hashes_at_every_distance(np.random.default_rng(most), 8)
    first, second, bits = near_pairs(hashes, None, most)
    found = list(zip(first.tolist(), second.tolist(), bits.tolist(), strict=True))
    assert found == all_pairs(hashes, most)
    assert (max(bits) == most) if most else not found


@pytest.mark.parametrize("most, cut", ((0, 300), (37, 200), (37, 500)))
def test_pairs_of_two_sets(most, cut):
    hashes = hashes_at_every_distance(np.random.default_rng(0), 6)
    np.random.default_rng(1).shuffle(hashes)
    some, others = hashes[:cut], hashes[cut - 50 :]  # some are in both
    first, second, bits = near_pairs(some, others, most)
    wanted = [
        (i, j, apart)
        for i, one in enumerate(whole(some))
        for j, other in enumerate(whole(others))
        if (apart := (one ^ other).bit_count()) <= most
    ]
    assert list(zip(first.tolist(), second.tolist(), bits.tolist(), strict=True)) == wanted
    assert len(wanted) >= 50


def test_hashes_with_much_in_common_are_compared_too(monkeypatch):
    """As of clips that begin with black: large tables, whose pairs are taken in several parts."""
    monkeypatch.setattr(bands, "CHUNK", 9_999)
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 1 << WORD_BITS, (1200, WORDS), dtype=np.uint64)
    hashes[:, 0] = 0
    hashes[::20, 1:] = hashes[0, 1:] ^ (np.uint64(1) << generator.integers(0, WORD_BITS, (60, 3)).astype(np.uint64))
    hashes = np.unique(hashes, axis=0)
    first, second, bits = near_pairs(hashes, None, 37)
    assert list(zip(first.tolist(), second.tolist(), bits.tolist(), strict=True)) == all_pairs(hashes, 37)
    assert len(first) == 60 * 59 // 2


def test_limits_of_parts_leave_no_way_out():
    for most in range(60):
        words = shares(most, WORDS)
        assert sum(limit + 1 for limit in words) == most + 1
        assert all(sum(limit + 1 for limit in shares(word, BANDS)) == word + 1 for word in words)


def test_nothing_has_no_pairs():
    nothing, one = np.zeros((0, WORDS), np.uint64), np.zeros((1, WORDS), np.uint64)
    for sets in ((nothing, None), (one, None), (nothing, one), (one, nothing)):
        assert [len(part) for part in near_pairs(*sets, 37)] == [0, 0, 0]
    assert [part.tolist() for part in near_pairs(one, one, 37)] == [[0], [0], [0]]


def test_bits_are_counted_alike():
    words = np.random.default_rng(0).integers(0, 1 << 64, 1000, dtype=np.uint64)
    wanted = [int(word).bit_count() for word in words]
    assert count_bits(words).tolist() == count_by_sums(words).tolist() == wanted
