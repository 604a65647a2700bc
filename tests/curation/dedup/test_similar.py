"""Similar embeddings, against all cosines."""

import numpy as np
import pytest

from lavie.curation.dedup import similar
from lavie.curation.dedup.similar import cluster_of, similar_pairs


def groups(count: int, each: int, spread: float, width: int = 32) -> np.ndarray:
    """Return vectors of length 1 in groups around random directions: float32 (count * each, width)."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(count, 1, width)) / width**0.5
    vectors = (centres + spread * generator.normal(size=(count, each, width)) / width**0.5).reshape(-1, width)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", (7, 4096))
@pytest.mark.parametrize("clusters", (1, 6))
def test_all_pairs_of_a_cluster_are_found(monkeypatch, clusters, block):
    monkeypatch.setattr(similar, "BLOCK", block)
    vectors = groups(6, 20, 0.4)
    own = cluster_of(vectors, clusters)
    cosines = vectors @ vectors.T
    wanted = {(i, j) for j in range(120) for i in range(j) if cosines[i, j] >= 0.9 and own[i] == own[j]}
    first, second, found = similar_pairs(vectors, 0.9, clusters)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == wanted and len(first) == len(wanted) > 100
    np.testing.assert_allclose(found, cosines[first, second], atol=1e-6)


def test_clusters_are_the_groups_and_the_same_every_time():
    vectors = groups(4, 300, 0.2)
    own = cluster_of(vectors, 12)  # more than there are groups: none holds vectors of two
    assert all(len({int(i) // 300 for i in np.flatnonzero(own == cluster)}) <= 1 for cluster in range(12))
    assert len(set(own.tolist())) >= 4 and (own == cluster_of(vectors, 12)).all()


def test_few_vectors_are_one_cluster():
    assert cluster_of(groups(2, 2, 0.1), 7).tolist() == [0] * 4
    assert [len(part) for part in similar_pairs(np.zeros((0, 4), np.float16), 0.9, None)] == [0, 0, 0]
