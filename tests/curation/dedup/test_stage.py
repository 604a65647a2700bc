"""Duplicates and similar clips over all units, against the rules taken word for word."""

from pathlib import Path

import numpy as np
import pytest

from lavie.config.curate_dedup import DedupConfig
from lavie.config.curate_score import ClipConfig, HashConfig
from lavie.curation.dedup.bands import BITS, WORD_BITS, WORDS
from lavie.curation.dedup.stage import DEDUP
from lavie.curation.partial import partial_folder
from lavie.curation.perform import commit
from lavie.curation.run import run_stage
from lavie.curation.score.clip import CLIP
from lavie.curation.score.hash import HASH
from lavie.curation.stage import Done, Stage
from lavie.curation.table import Made
from tests.curation.here import Here
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving

STILL = np.zeros((1, 16, 16, 3), np.uint8)
"""Clips whose pictures nobody looks at: their hashes and embeddings are given."""
WIDTH = 8
"""Numbers of an embedding."""


def dedup(out: Path, **settings) -> list[dict]:
    """Run the stage, and return its rows with those of `cut`."""
    report = run_stage(out, "dedup", DedupConfig(**settings), Here())
    assert not report.failed and not report.waiting, report
    rows = []
    for unit in made_units(out):
        own = unit.read("dedup").to_pylist()
        rows += [cut | found for cut, found in zip(unit.read("cut").to_pylist(), own, strict=True)]
    return rows


def put(out: Path, stage: Stage, config, columns: dict[str, list]) -> None:
    """Put columns of a stage in place, for all clips in the order of units."""
    begin = 0
    for unit in made_units(out):
        clips = unit.read("cut", ["clip"])["clip"].to_pylist()
        part = {name: values[begin : begin + len(clips)] for name, values in columns.items()}
        begin += len(clips)
        with partial_folder(out, "put") as folder:
            unit.folder = folder
            commit(
                stage, unit, Done({"clip": clips} | part), Made(stage.name, stage.version, stage.identity(config), {})
            )


def put_hashes(out: Path, hashes: list[list[int] | None]) -> None:
    nothing = [None] * len(hashes)
    put(out, HASH, HashConfig(), {"phash": hashes, "overlay_area": nothing, "overlay": nothing})


def put_embeddings(out: Path, embeddings: list, ratings: list[float | None]) -> None:
    put(out, CLIP, ClipConfig(), {"embeddings": embeddings, "aesthetic_mean": ratings, "aesthetic_min": ratings})


def made_clips(root: Path, heights: list[int], frames: list[int] | None = None) -> Path:
    """Make a curation of clips of given heights in units of two films of three clips each."""
    frames = frames or [16] * len(heights)
    sizes = zip(heights, frames, strict=True)
    clips = [MadeClip(STILL, data=b"", row={"height": h, "width": 2 * h, "frames": f}) for h, f in sizes]
    return make_cut(root, {f"{i:03d}.mp4": clips[3 * i : 3 * i + 3] for i in range(-(-len(clips) // 3))})


def near(hash: list[int], bits: int, seed: int) -> list[int]:
    """Return a hash that differs from another in so many bits."""
    changed = list(hash)
    for place in np.random.default_rng(seed).permutation(BITS)[:bits].tolist():
        changed[place // WORD_BITS] ^= 1 << place % WORD_BITS
    return changed


def random_hash(seed: int) -> list[int]:
    return np.random.default_rng([7, seed]).integers(0, 1 << WORD_BITS, WORDS).tolist()


def by_the_rules(rows: list[dict], hashes: list, ratings: list[float], most: int) -> list[tuple[str | None, int]]:
    """Return for each clip what it is a duplicate of, and the bits in which they differ."""

    def rank(i: int) -> tuple:
        row = rows[i]
        rating = -np.inf if ratings[i] is None else ratings[i]
        return -min(row["width"], row["height"]), -rating, -row["frames"], row["clip"]

    kept: list[int] = []
    result: list[tuple[str | None, int]] = [(None, 0)] * len(rows)
    for i in sorted(range(len(rows)), key=rank):
        if hashes[i] is None:
            continue
        apart = {j: sum((a ^ b).bit_count() for a, b in zip(hashes[i], hashes[j], strict=True)) for j in kept}
        like = [j for j in kept if apart[j] <= most]
        if like:
            result[i] = rows[like[0]]["clip"], apart[like[0]]
        else:
            kept.append(i)
    return result


@pytest.mark.parametrize("aesthetic, block", ((False, 4), (True, 1 << 14)))
def test_duplicates_are_those_of_the_rules(tmp_path, monkeypatch, aesthetic, block):
    monkeypatch.setattr("lavie.curation.dedup.stage.BLOCK", block)
    generator = np.random.default_rng(1)
    count = 90
    heights, frames = generator.choice([480, 720], count).tolist(), generator.choice([16, 32], count).tolist()
    out = made_clips(tmp_path, heights, frames)
    roots = [random_hash(seed) for seed in range(6)]
    hashes = [near(roots[i % 6], int(generator.integers(0, 30)), i) for i in range(count)]
    hashes[3] = hashes[40] = None
    hashes[10] = hashes[20] = hashes[50]
    ratings = [None if i % 7 == 0 else float(generator.integers(3, 6)) for i in range(count)]
    put_hashes(out, hashes)
    put_embeddings(out, [None] * count, ratings)
    rows = dedup(out, aesthetic=aesthetic)
    wanted = by_the_rules(rows, hashes, ratings if aesthetic else [0] * count, 37)
    assert [row["duplicate_of"] for row in rows] == [name for name, _ in wanted]
    for row, (name, bits) in zip(rows, wanted, strict=True):
        assert row["duplicate_distance"] == (None if name is None else pytest.approx(bits / BITS))
    assert 20 < sum(name is not None for name, _ in wanted) < count - 6
    assert all(row["similar_to"] is None and row["similarity"] is None for row in rows)


def test_the_larger_the_nicer_the_longer_and_the_first_are_kept(tmp_path):
    heights, frames = [480, 720, 720, 720, 720, 720], [99, 16, 16, 32, 32, 32]
    out = made_clips(tmp_path, heights, frames)
    put_hashes(out, [random_hash(0)] * 6)
    put_embeddings(out, [None] * 6, [9.0, 5.0, 6.0, 6.0, None, 6.0])
    rows = dedup(out, aesthetic=True)
    best = min((rows[3], rows[5]), key=lambda row: row["clip"])
    assert {row["clip"]: row["duplicate_of"] for row in rows} == {
        row["clip"]: None if row is best else best["clip"] for row in rows
    }
    assert min(rows[3:], key=lambda row: row["clip"])["clip"] in {row["duplicate_of"] for row in dedup(out)}


def test_a_film_that_lies_there_twice_is_kept_once(tmp_path):
    """Its clips have the same names, so that one is the duplicate of its own name."""
    out = made_clips(tmp_path, [720] * 2)
    hash = random_hash(0)
    put_hashes(out, [hash, near(hash, 37, 0)])
    assert sum(row["duplicate_of"] is None for row in dedup(out)) == 1
    assert sum(row["duplicate_of"] is None for row in dedup(out, distance=0.14)) == 2


def test_similar_clips_are_those_of_near_embeddings(tmp_path):
    """0, 1 and 2 are similar, and 1 is a duplicate of 0 already; 3 has no embedding, and 4 is alone."""
    out = made_clips(tmp_path, [900, 800, 700, 600, 500])
    one, other = np.eye(WIDTH)[0], np.eye(WIDTH)[1]
    tilted = 0.96 * one + 0.28 * other
    frames = [[vector.tolist()] * WORDS if vector is not None else None for vector in (one, one, tilted, None, other)]
    hash = random_hash(0)
    put_hashes(out, [hash, near(hash, 5, 0), *(random_hash(seed) for seed in (1, 2, 3))])
    put_embeddings(out, frames, [None] * 5)
    rows = dedup(out, similar=0.95)
    assert [row["duplicate_of"] for row in rows] == [None, rows[0]["clip"], None, None, None]
    assert [row["similar_to"] for row in rows] == [None, None, rows[0]["clip"], None, None]
    assert rows[2]["similarity"] == pytest.approx(0.96, abs=1e-3)
    assert all(row["similar_to"] is None for row in dedup(out, similar=0.97))


def test_what_is_read_decides_when_it_is_done_again(tmp_path):
    """Without ratings and embeddings the stage `clip` is not waited for."""
    out = made_clips(tmp_path, [720] * 4)
    put_hashes(out, [random_hash(seed) for seed in range(4)])
    dedup(out)
    assert run_stage(out, "dedup", DedupConfig(), Here()).done == 0
    report = run_stage(out, "dedup", DedupConfig(similar=0.9), Here())
    assert len(report.waiting) == report.units and not report.failed
    assert DEDUP.sources(DedupConfig(aesthetic=True)) == ("cut", "hash", "clip")


def test_clips_of_real_pictures(tmp_path):
    """A clip, the same at crf 38, and another one, through `hash` and `dedup`."""
    pictures = moving(0, 16, 144, 256)
    coarse = MadeClip(pictures, options={"crf": "38"})
    small = pictures[:, ::2, ::2]
    out = make_cut(tmp_path, {"a.mp4": [small, moving(1)], "b.mp4": [pictures, coarse]}, films_a_unit=1)
    assert not run_stage(out, "hash", HashConfig(), Here()).failed
    rows = dedup(out)
    best = min(rows[2:], key=lambda row: row["clip"])["clip"]
    assert [row["duplicate_of"] for row in rows] == [
        best,
        None,
        *(None if row["clip"] == best else best for row in rows[2:]),
    ]
    assert all(row["duplicate_distance"] <= 0.15 for row in rows if row["duplicate_of"])
