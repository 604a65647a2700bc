"""Similar embeddings, against all cosines."""

import numpy as np
import pytest

from lavie.curation.dedup import similar
from lavie.curation.dedup.similar import best_similar, cluster_of


def groups(count: int, each: int, spread: float, width: int = 32) -> np.ndarray:
    """Return vectors of length 1 in groups around random directions: float32 (count * each, width)."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(count, 1, width)) / width**0.5
    vectors = (centres + spread * generator.normal(size=(count, each, width)) / width**0.5).reshape(-1, width)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_the_rule(cosines: np.ndarray, least: float, own: np.ndarray) -> list[int]:
    """Take clips from the best on; one that is similar to kept ones of its cluster is dropped for the best of them."""
    result: list[int] = []
    for clip in range(len(own)):
        like = [i for i in range(clip) if result[i] < 0 and own[i] == own[clip] and cosines[clip, i] >= least]
        result.append(like[0] if like else -1)
    return result


@pytest.mark.parametrize("block", (7, 1024))
@pytest.mark.parametrize("clusters", (1, 6))
def test_the_best_of_a_cluster_are_kept(monkeypatch, clusters, block):
    monkeypatch.setattr(similar, "BLOCK", block)
    vectors = groups(6, 20, 0.4)
    np.random.default_rng(1).shuffle(vectors)
    cosines, own = vectors @ vectors.T, cluster_of(vectors, clusters)
    wanted = by_the_rule(cosines, 0.88, own)
    target, found = best_similar(vectors, 0.88, clusters)
    assert target.tolist() == wanted and 20 < sum(place < 0 for place in wanted) < 90
    dropped = np.flatnonzero(target >= 0)
    np.testing.assert_allclose(found[dropped], cosines[dropped, target[dropped]], atol=1e-6)
    assert np.isnan(found[target < 0]).all()


def test_clusters_are_the_groups_and_the_same_every_time():
    vectors = groups(4, 300, 0.2)
    own = cluster_of(vectors, 12)  # more than there are groups: none holds vectors of two
    assert all(len({int(i) // 300 for i in np.flatnonzero(own == cluster)}) <= 1 for cluster in range(12))
    assert len(set(own.tolist())) >= 4 and (own == cluster_of(vectors, 12)).all()


def test_few_vectors_are_one_cluster():
    assert cluster_of(groups(2, 2, 0.1), 7).tolist() == cluster_of(groups(2, 2, 0.1), 4).tolist() == [0] * 4
    assert [len(part) for part in best_similar(np.zeros((0, 4), np.float16), 0.9, None)] == [0, 0]
