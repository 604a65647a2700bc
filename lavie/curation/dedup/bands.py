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


def near_pairs(hashes: np.ndarray, others: np.ndarray | None, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of hashes that differ in at most `most` bits.

    Args:
        hashes: uint64 (n, WORDS), n below 2**31.
        others: uint64 (m, WORDS), the second ones of the pairs; None for pairs within `hashes`, which then are all
            different.
        most: 0 or more.

    Returns:
        int64 (p,) and int64 (p,): the places of the two, in ascending order; within one set the lower one is the first;
        and the bits in which they differ, int16 (p,).
    """
    second_set = hashes if others is None else others
    if not len(hashes) or not len(second_set):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int16)
    found = np.zeros(0, np.int64)
    for word, word_most in enumerate(shares(most, WORDS)):
        for band, band_most in enumerate(shares(word_most, BANDS)):
            if band_most >= 0:
                more = _within_band(hashes, others, word, band, (band_most, word_most, most))
                found = np.unique(np.concatenate([found, *more]))
    first, second = np.divmod(found, len(second_set))
    return first, second, count_bits(hashes[first] ^ second_set[second]).sum(1, dtype=np.int16)


def shares(most: int, parts: int) -> list[int]:
    """Return limits for parts, of which two hashes keep one if they keep `most` over all; -1 if a part is not needed.

    The limits, each with 1 added, sum to most + 1: were every part over its limit, the sum would be over `most`.
    """
    return [(most + 1) // parts + (part < (most + 1) % parts) - 1 for part in range(parts)]


class _Tables:
    """Hashes by the bits of one band: in the order of their keys, with the place of each key's table."""

    def __init__(self, hashes: np.ndarray, word: int, band: int) -> None:
        """Sort hashes, uint64 (n, WORDS), by a band of a word."""
        keys = (hashes[:, word] >> np.uint64(band * BAND_BITS) & np.uint64((1 << BAND_BITS) - 1)).astype(np.int64)
        self.order = np.argsort(keys, kind="stable")
        self.hashes, self.words = hashes[self.order], hashes[self.order, word]
        self.counts = np.bincount(keys, minlength=1 << BAND_BITS).astype(np.int32)
        self.starts = np.cumsum(self.counts, dtype=np.int64) - self.counts
        self.keys = np.flatnonzero(self.counts)


def _within_band(
    hashes: np.ndarray, others: np.ndarray | None, word: int, band: int, most: tuple[int, int, int]
) -> Iterator[np.ndarray]:
    """Yield the pairs that are near in one band, and in its word, and in all, each as first * m + second.

    Args:
        hashes: as for `near_pairs`.
        others: likewise; m is their number, or that of `hashes`.
        word: the number of the word.
        band: that of the band in it.
        most: bits in which the band, the word and the whole may differ.
    """
    one = _Tables(hashes, word, band)
    other = one if others is None else _Tables(others, word, band)
    few, many = (one, other) if len(one.keys) < len(other.keys) else (other, one)
    for mask, keys in _masks(few.keys, most[0], halved=others is None):
        # Tables whose keys differ in exactly the bits of the mask; those of the smaller set are gone through.
        partners = keys ^ mask
        kept = np.flatnonzero(many.counts[partners])
        both = (keys[kept], partners[kept]) if few is one else (partners[kept], keys[kept])
        for a, b in _members(one, other, *both):
            if others is None and not mask:
                a, b = a[a < b], b[a < b]
            near = count_bits(one.words[a] ^ other.words[b]) <= most[1]
            a, b = a[near], b[near]
            near = count_bits(one.hashes[a] ^ other.hashes[b]).sum(1, dtype=np.int16) <= most[2]
            a, b = one.order[a[near]], other.order[b[near]]
            if others is None:
                a, b = np.minimum(a, b), np.maximum(a, b)
            yield a * len(other.order) + b


def _masks(keys: np.ndarray, most: int, *, halved: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each mask of at most so many bits of a band, with the keys that it is laid on.

    Args:
        keys: those that are there.
        most: bits.
        halved: whether of two keys that differ by a mask only the one comes that has a 0 where they first differ.
    """
    yield 0, keys
    halves = [keys[keys >> bit & 1 == 0] if halved else keys for bit in range(BAND_BITS)]
    for size in range(1, most + 1):
        for places in itertools.combinations(range(BAND_BITS), size):
            yield sum(1 << place for place in places), halves[places[-1]]


def _members(
    one: _Tables, other: _Tables, one_keys: np.ndarray, other_keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of members of two tables each, about CHUNK at a time; of a table with itself each pair twice.

    Args:
        one: tables.
        other: likewise.
        one_keys: which of the first.
        other_keys: the one of the others that goes with each.
    """
    counts = other.counts[other_keys].astype(np.int64)
    sizes = one.counts[one_keys] * counts
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
        across, down = np.divmod(place, counts[table])
        yield one.starts[one_keys][table] + across, other.starts[other_keys][table] + down
