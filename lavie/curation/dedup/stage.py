"""The stage `dedup`: for each clip the better one that shows the same, over all units at once.

Of two clips the one with the larger short side is better; if equal the one with the higher aesthetic_mean, where clips
are rated; if equal the one with more frames; if equal the one whose name comes first.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...config.curate_dedup import DedupConfig
from ..stage import Done, Stage
from ..unit import Unit
from .bands import BITS, WORDS, near_pairs
from .keep import keep_best
from .similar import best_similar

COLUMNS = {
    "clip": "string",
    "duplicate_of": "string",
    "duplicate_distance": "float",
    "similar_to": "string",
    "similarity": "float",
}
"""duplicate_of: the best clip that is kept and whose hash is as near as `distance`; duplicate_distance: the share of
bits in which the two differ. similar_to: of those that are no duplicates, the best that is kept and whose mean
embedding has a cosine of `similar` or more; similarity: that cosine, to 4 digits. Null where there is none. A film that
lies twice below SRC has clips of equal names: of each such pair one is the duplicate of the other."""
PLACES = 4
"""Digits of a cosine."""
BLOCK, GROWTH = 1 << 12, 32.0
"""Hashes that are compared first, and how much larger each next block is, by `keep.keep_best`. The first blocks leave a
few of what is there a thousand times, as from a camera that never moves; then most are compared in one block."""


def whole(units: Sequence[Unit], config: DedupConfig) -> Iterator[tuple[Unit, Done]]:
    """Compare the clips of all units, and yield the columns of each."""
    tables = [unit.read("cut", ["clip", "width", "height", "frames"]) for unit in units]
    clips = np.array([clip for table in tables for clip in table["clip"].to_pylist()], "U16")
    order = _best_first(units, tables, clips, config)
    duplicate_of, distance = _duplicates(units, order, config.distance)
    similar_to, cosine = np.full(len(clips), -1, np.int64), np.full(len(clips), np.nan, np.float32)
    if config.similar is not None:
        similar_to, cosine = _similar(units, order[duplicate_of[order] < 0], len(clips), config)

    begin = 0
    for unit, table in zip(units, tables, strict=True):
        part = slice(begin, begin + len(table))
        begin += len(table)
        columns = {
            "clip": table["clip"],
            "duplicate_of": _names(clips, duplicate_of[part]),
            "duplicate_distance": _numbers(distance[part]),
            "similar_to": _names(clips, similar_to[part]),
            "similarity": _numbers(cosine[part]),
        }
        yield unit, Done(columns)


def _names(clips: np.ndarray, places: np.ndarray) -> list[str | None]:
    """Return the names of clips by their places, None for -1."""
    return [None if place < 0 else str(clips[place]) for place in places.tolist()]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers, None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def _best_first(units: Sequence[Unit], tables: Sequence[Any], clips: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Return the places of all clips, the best first: int64 (n,)."""
    width, height, frames = (
        np.concatenate([np.zeros(0, np.int64), *(table[name].to_numpy() for table in tables)])
        for name in ("width", "height", "frames")
    )
    rating = np.zeros(len(clips))
    if config.aesthetic:
        rated = [unit.read("clip", ["aesthetic_mean"])["aesthetic_mean"].to_numpy() for unit in units]
        rating = np.concatenate([np.zeros(0, np.float32), *rated])
        rating = np.where(np.isnan(rating), -np.inf, rating)
    return np.lexsort((clips, -frames, -rating, -np.minimum(width, height)))


def _duplicates(units: Sequence[Unit], order: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return of each clip the place of what it is a duplicate of, -1 for nothing, and their distance, NaN for none.

    Args:
        units: all.
        order: the places of all clips, the best first.
        distance: the largest share of bits.
    """
    duplicate_of, shares = np.full(len(order), -1, np.int64), np.full(len(order), np.nan, np.float32)
    is_hashed, hashes = _hashes(units)
    order = order[is_hashed[order]]
    unique, firsts, group = np.unique(hashes[order], axis=0, return_index=True, return_inverse=True)

    # Clips of one hash share their fate: the best of them stands for all. Hashes are numbered from the best.
    ranks = np.argsort(firsts)
    number = np.empty_like(ranks)
    number[ranks] = np.arange(len(ranks))
    best, group = order[firsts[ranks]], number[group.reshape(-1)]
    unique = unique[ranks]

    def pairs(some: np.ndarray, others: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs of hashes that are near, for `keep_best`."""
        return near_pairs(unique[some], None if others is None else unique[others], int(distance * BITS + 1e-9))

    target, bits = keep_best(len(unique), pairs, BLOCK, GROWTH)
    is_kept = target < 0
    target, bits = np.where(is_kept, np.arange(len(unique)), target), np.where(is_kept, 0, bits)

    is_duplicate = ~is_kept[group] | (best[group] != order)
    places, group = order[is_duplicate], group[is_duplicate]
    duplicate_of[places] = best[target[group]]
    shares[places] = bits[group] / BITS
    return duplicate_of, shares


def _hashes(units: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    """Return which clips have a hash, bool (n,), and the hashes, uint64 (n, WORDS), 0 for those without."""
    has, words = [np.zeros(0, bool)], [np.zeros((0, WORDS), np.uint64)]
    for unit in units:
        column = unit.read("hash", ["phash"])["phash"].combine_chunks()
        own = column.is_valid().to_numpy(zero_copy_only=False)
        values = np.zeros((len(column), WORDS), np.uint64)
        values[own] = column.flatten().to_numpy().reshape(-1, WORDS)
        has.append(own)
        words.append(values)
    return np.concatenate(has), np.concatenate(words)


def _similar(
    units: Sequence[Unit], order: np.ndarray, count: int, config: DedupConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each clip the place of the one that it is similar to, -1 for none, and their cosine, NaN for none.

    Args:
        units: all.
        order: the places of the clips that are compared, the best first.
        count: of all clips.
        config: how near, and in how many clusters.
    """
    similar_to, cosine = np.full(count, -1, np.int64), np.full(count, np.nan, np.float32)
    has, vectors = _mean_embeddings(units)
    row = np.cumsum(has) - 1
    order = order[has[order]]
    assert config.similar is not None
    target, cosines = best_similar(vectors[row[order]], config.similar, config.clusters)
    places = np.flatnonzero(target >= 0)
    similar_to[order[places]] = order[target[places]]
    cosine[order[places]] = np.round(cosines[places], PLACES)
    return similar_to, cosine


def _mean_embeddings(units: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    """Return which clips have embeddings, bool (n,), and their mean embeddings, of length 1: float16 (m, D)."""
    has, means = [np.zeros(0, bool)], []
    for unit in units:
        column = unit.read("clip", ["embeddings"])["embeddings"].combine_chunks()
        own = column.is_valid().to_numpy(zero_copy_only=False)
        has.append(own)
        if own.any():
            frames = column.flatten()  # of all clips, one behind another, the same number of each
            values = frames.flatten().to_numpy().reshape(int(own.sum()), len(frames) // int(own.sum()), -1)
            mean = values.astype(np.float32).mean(1)
            means.append((mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float16))
    return np.concatenate(has), np.concatenate(means) if means else np.zeros((0, 1), np.float16)


def _sources(config: DedupConfig) -> tuple[str, ...]:
    """Return the stages that are read."""
    return ("cut", "hash", "clip") if config.similar is not None or config.aesthetic else ("cut", "hash")


DEDUP = Stage("dedup", 1, _sources, DedupConfig, COLUMNS, whole=whole)
