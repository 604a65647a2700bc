"""Which of several clips is kept, given which pairs of them are alike."""

import numpy as np


def best_kept(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return for each clip the pair that drops it, -1 for those that are kept.

    Clips are taken from the best to the worst. One that is like a clip that is kept is dropped, for the best such clip.
    So no two of those that are kept are alike, and each that is dropped is like one that is kept; a chain of pairs does
    not join what is not alike.

    Args:
        first: int64 (p,), of each pair the better clip; clips are numbered from the best.
        second: int64 (p,), the worse one.
        count: how many clips there are.

    Returns:
        int64 (count,), numbers of pairs.
    """
    dropped_by = np.full(count, -1, np.int64)
    order = np.lexsort((first, second))
    first, second = first[order], second[order]
    clips, begins = np.unique(second, return_index=True)
    ends = np.append(begins, len(second))[1:]
    for clip, begin, end in zip(clips.tolist(), begins.tolist(), ends.tolist(), strict=True):
        kept = dropped_by[first[begin:end]] < 0
        if kept.any():
            dropped_by[clip] = order[begin + int(kept.argmax())]
    return dropped_by
