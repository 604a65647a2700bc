"""Similar clips: pairs of embeddings with a large cosine, looked for within clusters (k-means) of them.

Two clips of different clusters are not compared, so some pairs are missed; with one cluster, none is.
"""

from itertools import pairwise

import numpy as np

CLUSTER = 1000
"""Clips in a cluster, about, where the number of clusters is not given."""
SAMPLE = 50
"""Clips of each cluster, about, that the centres are found with."""
ROUNDS = 10
"""Rounds of k-means."""
BLOCK = 4096
"""Embeddings that are compared at a time with all of their cluster, or with all centres."""


def similar_pairs(vectors: np.ndarray, least: float, clusters: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of a cluster whose cosine is `least` or more.

    Args:
        vectors: (n, D) of length 1, of any floating dtype.
        least: a cosine.
        clusters: how many clusters; None for one for each CLUSTER vectors.

    Returns:
        int64 (p,) and int64 (p,): the places of the two, the lower one first; and the cosines, float32 (p,).
    """
    own = cluster_of(vectors, clusters or len(vectors) // CLUSTER + 1)
    order = np.argsort(own, kind="stable")
    bounds = np.flatnonzero(np.diff(own[order], prepend=-1, append=-1))
    firsts, seconds, cosines = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for begin, end in pairwise(bounds.tolist()):
        members = order[begin:end]
        inside = vectors[members].astype(np.float32)
        for top in range(0, len(members), BLOCK):
            block = inside[top : top + BLOCK] @ inside[: top + BLOCK].T
            worse, better = np.nonzero(np.tril(block >= least, top - 1))
            firsts.append(members[better])
            seconds.append(members[top + worse])
            cosines.append(block[worse, better])
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(cosines)


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
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return _nearest(vectors, centres)


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return for each vector the centre with the largest cosine, int64 (n,)."""
    parts = range(0, len(vectors), BLOCK)
    found = [(vectors[i : i + BLOCK].astype(np.float32) @ centres.T).argmax(1) for i in parts]
    return np.concatenate([np.zeros(0, np.int64), *found])
