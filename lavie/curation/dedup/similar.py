"""Similar clips by the cosines of their embeddings, looked for within clusters (k-means) of them.

Two clips of different clusters are not compared, so some that are similar are missed; with one cluster, none is.
"""

from itertools import pairwise

import numpy as np

from .keep import Pairs, keep_best

CLUSTER = 1000
"""Clips in a cluster, about, where the number of clusters is not given."""
SAMPLE = 50
"""Clips of each cluster, about, that the centres are found with."""
ROUNDS = 10
"""Rounds of k-means."""
BLOCK = 1024
"""Embeddings that are compared at a time with all that are kept of their cluster, or with all centres."""


def best_similar(vectors: np.ndarray, least: float, clusters: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return for each clip the one of its cluster that it is similar to and dropped for, as `keep.keep_best` does.

    Args:
        vectors: (n, D) of length 1, of any floating dtype, from the best clip to the worst.
        least: the least cosine of similar clips.
        clusters: how many clusters; None for one for each CLUSTER vectors.

    Returns:
        int64 (n,): the place of the other clip, -1 for those that are kept; and the cosine, float64 (n,), NaN for them.
    """
    target, cosine = np.full(len(vectors), -1, np.int64), np.full(len(vectors), np.nan)
    own = cluster_of(vectors, clusters or len(vectors) // CLUSTER + 1)
    order = np.argsort(own, kind="stable")
    bounds = np.flatnonzero(np.diff(own[order], prepend=-1, append=-1)).tolist()
    for begin, end in pairwise(bounds):
        members = order[begin:end]
        places, cosine[members] = keep_best(len(members), _pairs(vectors[members].astype(np.float32), least), BLOCK)
        target[members] = np.where(places < 0, -1, members[places])
    return target, cosine


def _pairs(vectors: np.ndarray, least: float) -> Pairs:
    """Return a function that finds the pairs with a cosine of `least` or more, for `keep.keep_best`."""

    def pairs(some: np.ndarray, others: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compare all with all."""
        cosines = vectors[some if others is None else others] @ vectors[some].T
        near = cosines >= least
        worse, better = np.nonzero(np.tril(near, -1) if others is None else near)
        return better, worse, cosines[worse, better]

    return pairs


def cluster_of(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """Return the cluster of each vector, int64 (n,): the same ones for the same vectors in the same order.

    The centres are found with a sample: of SAMPLE vectors a cluster, the first ones are vectors of the sample.
    """
    n = len(vectors)
    if clusters <= 1 or n <= clusters:
        return np.zeros(n, np.int64)
    sample = np.random.default_rng(0).permutation(n)[: clusters * SAMPLE]
    points = vectors[sample].astype(np.float32)
    centres = points[:clusters].copy()
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        has_points = lengths[:, 0] > 0
        centres[has_points] = sums[has_points] / lengths[has_points]
    return _nearest(vectors, centres)


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return for each vector the centre with the largest cosine, int64 (n,)."""
    parts = range(0, len(vectors), BLOCK)
    return np.concatenate([(vectors[i : i + BLOCK].astype(np.float32) @ centres.T).argmax(1) for i in parts])
