"""Hashes against a calculation with SciPy, duplicates and distinct clips, and what is laid over all shots of a film."""

import numpy as np
import pytest
from PIL import Image

from lavie.config.curate_score import HashConfig
from lavie.curation.score.dct_hash import BITS, differing, picture_hash
from lavie.curation.score.hash import work
from lavie.curation.score.overlay import AREA, SHOTS, Overlay, gradient
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving


def distance(a: list[int], b: list[int]) -> float:
    """Return the share of bits in which the hashes of two clips differ."""
    return sum(map(differing, a, b)) / (BITS * len(a))


def test_a_hash_is_that_of_its_definition():
    scipy = pytest.importorskip("scipy.fft")
    grey = moving(0, 1, 64, 96)[0] @ [0.299, 0.587, 0.114]
    grey = np.rint(grey).astype(np.uint8)
    small = grey.reshape(32, 2, 32, 3).mean((1, 3))
    lowest = scipy.dctn(np.floor(small + 0.5), norm=None)[:8, :8].ravel()[1:]
    wanted = lowest > np.median(lowest)
    found = [picture_hash(grey) >> place & 1 for place in range(BITS)]
    assert found == wanted.astype(int).tolist() and sum(found) == 31
    assert picture_hash(np.full((9, 16), 77, np.uint8)) == 0


def test_duplicates_are_near_and_others_far(tmp_path):
    """Encoded at crf 38, of half the size, brighter: all within 0.15; other pictures beyond 0.30."""
    pictures = moving(0, 16, 144, 256)
    half = np.stack([np.asarray(Image.fromarray(f).resize((128, 72), Image.Resampling.BICUBIC)) for f in pictures])
    brighter = (pictures.astype(float) * 1.2 + 10).clip(0, 255).astype(np.uint8)
    coarse = MadeClip(pictures, options={"crf": "38"})
    others = [moving(seed, 16, 144, 256) for seed in range(1, 6)]
    out = make_cut(tmp_path, {"a.mp4": [pictures, coarse, half, brighter, *others]})
    [unit] = made_units(out)
    found = work(unit, HashConfig())
    assert not found.rejected and found.columns["overlay"] == [None] * 9
    first, *hashes = found.columns["phash"]
    assert all(distance(first, same) <= 0.15 for same in hashes[:3])
    distinct = [first, *hashes[3:]]
    assert all(distance(a, b) >= 0.30 for i, a in enumerate(distinct) for b in distinct[:i])


def test_a_clip_that_cannot_be_decoded_is_named_and_the_others_are_hashed(tmp_path):
    good = [moving(0), moving(1)]
    out = make_cut(tmp_path, {"a.mp4": [good[0], MadeClip(good[0], data=b"no video"), good[1]]})
    [unit] = made_units(out)
    found = work(unit, HashConfig())
    assert [hashes is None for hashes in found.columns["phash"]] == [False, True, False]
    [refused] = found.rejected
    assert refused.name == found.columns["clip"][1] and refused.detail.startswith("a.mp4: ")


def with_word(shots: list[np.ndarray], opacity: float) -> list[np.ndarray]:
    """Return pictures with a white block letter laid over them."""
    letter = np.zeros(shots[0].shape, bool)
    for part in (np.s_[10:40, 200:204], np.s_[10:14, 200:225], np.s_[23:27, 200:220]):
        letter[part] = True
    return [np.where(letter, shot + opacity * (255.0 - shot), shot).astype(np.uint8) for shot in shots]


def area_of(shots: list[np.ndarray]) -> float | None:
    overlay = Overlay()
    for shot in shots:
        overlay.add(shot, picture_hash(shot))
    return overlay.area()


def test_an_overlay_is_found_and_a_film_without_one_is_clean():
    shots = [moving(seed, 1, 144, 256)[0, ..., 0] for seed in range(25)]
    assert area_of(shots) == 0
    assert area_of(with_word(shots, 0.3)) >= AREA


def test_one_shot_in_many_parts_is_no_overlay():
    """All parts of it have the same edges; they count as one shot, and one shot tells nothing."""
    shots = [moving(seed, 1, 144, 256)[0, ..., 0] for seed in range(SHOTS - 1)]
    assert area_of([*shots, *shots[:1] * 30]) is None
    assert area_of([*shots, moving(99, 1, 144, 256)[0, ..., 0]]) == 0


def test_the_gradient_is_sobels():
    cv2 = pytest.importorskip("cv2")
    grey = moving(3, 1)[0, ..., 1]
    across, down = gradient(grey)
    np.testing.assert_array_equal(across, cv2.Sobel(grey, cv2.CV_32F, 1, 0)[1:-1, 1:-1])
    np.testing.assert_array_equal(down, cv2.Sobel(grey, cv2.CV_32F, 0, 1)[1:-1, 1:-1])


def test_an_overlay_is_one_of_its_film_alone(tmp_path):
    plain = [moving(seed, 4, 144, 256) for seed in range(SHOTS)]
    marked = [np.stack(with_word(list(clip), 0.5)) for clip in plain]
    out = make_cut(tmp_path, {"marked.mp4": marked, "plain.mp4": plain, "short.mp4": marked[:3]}, films_a_unit=3)
    [unit] = made_units(out)
    found = work(unit, HashConfig()).columns["overlay"]
    assert found == [True] * SHOTS + [False] * SHOTS + [None] * 3
