"""Which of many clips are kept, given a way to find those that are alike.

Clips are taken from the best to the worst. One that is like a clip that is kept is dropped, for the best such clip. So
no two of those that are kept are alike, and each that is dropped is like one that is kept; a chain of pairs does not
join what is not alike.
"""

from collections.abc import Callable

import numpy as np

Pairs = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Takes two sets of clips by their places, ascending, and returns the pairs that are alike: the place of one in the
first set, int64 (p,), that of the other in the second, and how near they are. With None, the pairs within the first
set, the lower place first."""


def keep_best(count: int, pairs: Pairs, first_block: int, growth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return for each clip the one that it is dropped for.

    Clips are compared in blocks: with those kept of earlier blocks, and what remains within its block. So of a thousand
    clips that are all alike few pairs are ever found.

    Args:
        count: how many clips there are; they are numbered from the best.
        pairs: finds those that are alike.
        first_block: clips in the first block.
        growth: how much larger each block is than the one before.

    Returns:
        int64 (count,): the number of the other clip, -1 for clips that are kept; and how near the two are, float64
        (count,), NaN for these.
    """
    target, value = np.full(count, -1, np.int64), np.full(count, np.nan)
    kept, begin, size = np.zeros(0, np.int64), 0, float(first_block)
    while begin < count:
        block = np.arange(begin, min(begin + int(size), count))
        better, worse, near = pairs(kept, block)
        order = np.lexsort((better, worse))
        dropped, first = np.unique(worse[order], return_index=True)
        target[block[dropped]], value[block[dropped]] = kept[better[order[first]]], near[order[first]]

        rest = np.delete(block, dropped)
        better, worse, near = pairs(rest, None)
        pair = dropped_by(better, worse, len(rest))
        dropped = np.flatnonzero(pair >= 0)
        target[rest[dropped]], value[rest[dropped]] = rest[better[pair[dropped]]], near[pair[dropped]]
        kept = np.concatenate([kept, rest[pair < 0]])
        begin, size = begin + len(block), size * growth
    return target, value


def dropped_by(better: np.ndarray, worse: np.ndarray, count: int) -> np.ndarray:
    """Return for each of some clips the pair that drops it, -1 for those that are kept.

    Args:
        better: int64 (p,), of each pair the better clip; clips are numbered from the best.
        worse: int64 (p,), the worse one.
        count: how many clips there are.

    Returns:
        int64 (count,), numbers of pairs.
    """
    result = np.full(count, -1, np.int64)
    order = np.lexsort((better, worse))
    better, worse = better[order], worse[order]
    clips, begins = np.unique(worse, return_index=True)
    ends = np.append(begins, len(worse))[1:]
    for clip, begin, end in zip(clips.tolist(), begins.tolist(), ends.tolist(), strict=True):
        is_kept = result[better[begin:end]] < 0
        if is_kept.any():
            result[clip] = order[begin + int(is_kept.argmax())]
    return result
