"""Hashes and overlays of the shots of a real film, whose cuts were found by eye."""

import itertools

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lavie.config.curate_score import HashConfig
from lavie.curation.pictures import midpoints
from lavie.curation.score.dct_hash import BITS, differing
from lavie.curation.score.hash import work
from lavie.testing import SHARED
from tests.curation.made_cut import MadeClip, made_units, make_cut
from tests.markers import requires_shared

TEARS = SHARED / "assets/videos/tears_of_steel.webm"
CUTS = (0, 52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284, 1345, 1378, 1430, 1472)
CUTS += (1525, 1571, 1618, 1650, 1689)
"""The first frames of its shots; the last shot, of two frames, is left out."""
OPACITY = 0.15
"""The word that is laid over all shots is as opaque as this, 0 .. 1."""
KEPT = 8
"""Frames of a shot that make its clip."""

pytestmark = [requires_shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def shots() -> list[np.ndarray]:
    """Return a few frames of each of 25 shots: uint8 (KEPT, 332, 800, 3)."""
    with av.open(str(TEARS)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.stack([frames[a + i] for i in midpoints(b - a, KEPT)]) for a, b in itertools.pairwise(CUTS)]


def with_word(clip: np.ndarray) -> np.ndarray:
    """Return frames with a faint white word in a corner."""
    word = Image.new("L", clip.shape[2:0:-1])
    ImageDraw.Draw(word).text((560, 20), "SAMPLE", 255, ImageFont.load_default(44))
    mask = np.asarray(word)[..., None] / 255 * OPACITY
    return np.rint(clip * (1 - mask) + 255 * mask).astype(np.uint8)


def hashed(tmp_path, films: dict) -> dict[str, tuple[list, list, list]]:
    """Return for each film the hashes of its clips, their overlay_area and overlay."""
    [unit] = made_units(make_cut(tmp_path, films, films_a_unit=len(films)))
    columns = work(unit, HashConfig()).columns
    owners = unit.read("cut")["film"].to_pylist()
    names = ("phash", "overlay_area", "overlay")
    return {f: tuple([v for v, own in zip(columns[n], owners, strict=True) if own == f] for n in names) for f in films}


def distance(a: list[int], b: list[int]) -> float:
    return sum(map(differing, a, b)) / (BITS * len(a))


def test_a_faint_word_over_25_shots_is_found_and_none_where_there_is_none(shots, tmp_path):
    found = hashed(tmp_path, {"marked.mp4": [with_word(clip) for clip in shots], "plain.mp4": shots})
    assert found["plain.mp4"][1:] == ([0] * 25, [False] * 25)
    assert all(found["marked.mp4"][2]) and found["marked.mp4"][1][0] > 0.005  # ten times what is needed
    hashes = found["plain.mp4"][0]
    assert min(distance(a, b) for a, b in itertools.combinations(hashes, 2)) >= 0.30
    assert max(map(distance, hashes, found["marked.mp4"][0])) <= 0.15


def test_the_same_shot_in_other_files_is_near(shots, tmp_path):
    some = shots[::4]
    coarse = [MadeClip(clip, options={"crf": "38"}) for clip in some]
    half = [np.stack([np.asarray(Image.fromarray(f).resize((400, 166))) for f in clip]) for clip in some]
    brighter = [(clip * 1.15 + 12).clip(0, 255).astype(np.uint8) for clip in some]
    found = hashed(tmp_path, {"a.mp4": some, "coarse.mp4": coarse, "half.mp4": half, "light.mp4": brighter})
    worst = {name: max(map(distance, found["a.mp4"][0], hashes)) for name, (hashes, *_) in found.items()}
    assert max(worst.values()) <= 0.15
