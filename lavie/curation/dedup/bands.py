"""All pairs of hashes that differ in few bits, without a comparison of all with all.

A hash is four words of 63 bits, each word three bands of 21. Two hashes that differ in at most `most` bits must, by the
pigeonhole principle, differ in at most t_w bits in some word w, where the t_w + 1 of the four words sum to most + 1;
and within that word in at most t_b bits in some band b, where the t_b + 1 of the three bands sum to t_w + 1. For 37
bits the t_b are 2 and 3. So each band is a table: all hashes whose band differs in so many bits are compared, and no
pair is missed. Of random pairs one in 400 is compared so.
"""

import itertools
from collections.abc import Iterator

import numpy as np

WORDS, WORD_BITS = 4, 63
"""The words of a hash, and the bits of each; the 64th is 0."""
BITS = WORDS * WORD_BITS
"""The bits of a hash."""
BANDS, BAND_BITS = 3, 21
"""The bands of a word, and the bits of each."""
CHUNK = 1 << 22
"""Pairs that are compared at a time: about 300 MB."""
FIFTHS = (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
"""The masks of counting bits by sums of neighbours."""


def count_bits(words: np.ndarray) -> np.ndarray:
    """Return the number of ones of each word: uint64 of any shape to uint8 of the same."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return count_by_sums(words)


def count_by_sums(words: np.ndarray) -> np.ndarray:
    """Return what `count_bits` does, with a NumPy before 2.0."""
    pairs, fours, bytes_, ones = (np.uint64(mask) for mask in FIFTHS)
    x = words - (words >> np.uint64(1) & pairs)
    x = (x & fours) + (x >> np.uint64(2) & fours)
    x = x + (x >> np.uint64(4)) & bytes_
    return (x * ones >> np.uint64(56)).astype(np.uint8)


def near_pairs(hashes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of hashes that differ in at most `most` bits.

    Args:
        hashes: uint64 (n, WORDS), all different, n below 2**31.
        most: 0 or more.

    Returns:
        int64 (p,) and int64 (p,): the places of the two, the lower one first, in ascending order; and the bits in which
        they differ, int16 (p,).
    """
    n = len(hashes)
    found = [np.zeros(0, np.int64)]
    for word, word_most in enumerate(shares(most, WORDS)):
        for band, band_most in enumerate(shares(word_most, BANDS)):
            if band_most >= 0:
                found += _within_band(hashes, word, band, (band_most, word_most, most))
                found = [np.unique(np.concatenate(found))]
    first, second = np.divmod(found[0], max(n, 1))
    bits = count_bits(hashes[first] ^ hashes[second]).sum(1, dtype=np.int16)
    return first, second, bits


def shares(most: int, parts: int) -> list[int]:
    """Return limits for parts, of which two hashes keep one if they keep `most` over all; -1 if a part is not needed.

    The limits, each with 1 added, sum to most + 1: were every part over its limit, the sum would be over `most`.
    """
    return [(most + 1) // parts + (part < (most + 1) % parts) - 1 for part in range(parts)]


def _within_band(hashes: np.ndarray, word: int, band: int, most: tuple[int, int, int]) -> list[np.ndarray]:
    """Return the pairs that are near in one band, and in its word, and in all, each as first * n + second.

    Args:
        hashes: uint64 (n, WORDS).
        word: the number of the word.
        band: that of the band in it.
        most: bits in which the band, the word and the whole may differ.
    """
    n = len(hashes)
    keys = (hashes[:, word] >> np.uint64(band * BAND_BITS) & np.uint64((1 << BAND_BITS) - 1)).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    sorted_hashes, own = hashes[order], hashes[order, word]
    counts = np.bincount(keys, minlength=1 << BAND_BITS).astype(np.int32)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    present = np.flatnonzero(counts)
    found = []
    for mask, lower in _masks(present, most[0]):
        # Tables whose keys differ in exactly the bits of the mask; the lower key has a 0 where they first differ.
        upper = lower ^ mask
        kept = np.flatnonzero(counts[upper])
        for a, b in _members(starts, counts, lower[kept], upper[kept]):
            if not mask:
                a, b = a[a < b], b[a < b]
            near = count_bits(own[a] ^ own[b]) <= most[1]
            a, b = a[near], b[near]
            near = count_bits(sorted_hashes[a] ^ sorted_hashes[b]).sum(1, dtype=np.int16) <= most[2]
            a, b = order[a[near]], order[b[near]]
            found.append(np.minimum(a, b) * n + np.maximum(a, b))
    return found


def _masks(present: np.ndarray, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each mask of at most so many bits of a band, with the keys, of those present, that are the lower of two."""
    yield 0, present
    halves = [present[present >> bit & 1 == 0] for bit in range(BAND_BITS)]
    for size in range(1, most + 1):
        for places in itertools.combinations(range(BAND_BITS), size):
            yield sum(1 << place for place in places), halves[places[-1]]


def _members(
    starts: np.ndarray, counts: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of members of two tables each, about CHUNK at a time; of a table with itself each pair twice.

    Args:
        starts: the place of the first member of the table of each key.
        counts: how many members each has.
        lower: keys.
        upper: the key that goes with each.
    """
    sizes = counts[lower].astype(np.int64) * counts[upper]
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, total, CHUNK):
        # The pairs begin .. end, counted over all tables, wherever in a table they begin.
        end = min(begin + CHUNK, total)
        first, last = np.searchsorted(ends, (begin, end - 1), side="right")
        part = slice(first, last + 1)
        table_ends = np.minimum(ends[part], end)
        table_begins = np.maximum(ends[part] - sizes[part], begin)
        table = np.repeat(np.arange(first, last + 1), table_ends - table_begins)
        place = np.arange(begin, end) - (ends - sizes)[table]
        across, down = np.divmod(place, counts[upper][table])
        yield starts[lower][table] + across, starts[upper][table] + down
