"""Text in pictures: which of what OCR finds counts, and on real pictures."""

import functools
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lavie.config.curate_score import TextConfig
from lavie.curation.score.text import TEXT, _reader, polygon_area, text_of, work
from lavie.testing import SHARED
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving
from tests.markers import requires_shared

TEARS = SHARED / "assets/videos/tears_of_steel.webm"
LIMIT = 0.02
"""The share of a picture beyond which text is too much, as the default rules have it."""
MIDDLES = (26, 140, 265, 512, 830, 944, 1142, 1218)
"""Middle frames of some shots of TEARS."""
OVERLAYS = ((265, "shutterstock", 1.2, (250, 180)), (512, "www.example.com", 0.7, (560, 310)))
"""Frames of TEARS, and what is written on each: the words, their size, and where they begin."""
MUZZLE = 1340
"""A frame of TEARS, of whose pattern OCR makes a number."""


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_only_sure_texts_of_some_letters_count():
    boxes = np.array([box(0, 0, 10, 5), box(0, 10, 20, 12), box(0, 20, 10, 30), box(0, 30, 5, 40)])
    found = SimpleNamespace(boxes=boxes, txts=("logo", "a.b-c", "unsure", "- 12 -"), scores=(0.99, 0.6, 0.59, 0.9))
    seen = []
    picture = np.zeros((50, 40, 3), np.uint8)
    picture[..., 0] = 200
    area, texts = text_of(picture, lambda pixels: seen.append(pixels) or found)
    assert texts == ["logo", "a.b-c"] and area == (50 + 40) / 2000
    assert seen[0][0, 0].tolist() == [0, 0, 200]  # blue first
    assert text_of(picture, lambda pixels: SimpleNamespace(boxes=None)) == (0.0, [])
    assert polygon_area(np.array([[0, 0], [4, 0], [6, 3], [2, 3.0]])) == 12


@functools.cache
def pictures(*numbers: int) -> dict[int, np.ndarray]:
    """Return frames of TEARS by their numbers."""
    found = {}
    with av.open(str(TEARS)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                found[number] = frame.to_ndarray(format="rgb24")
            if number == max(numbers):
                return found
    raise AssertionError


def written(picture: np.ndarray, text: str, scale: float, place: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.putText(picture.copy(), text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 2, cv2.LINE_AA)


@requires_shared
@pytest.mark.slow
def test_two_overlays_are_read():
    pytest.importorskip("rapidocr")
    pytest.importorskip("cv2")
    picture = pictures(265, 512)
    for number, text, scale, place in OVERLAYS:
        area, texts = text_of(written(picture[number], text, scale, place), _reader())
        assert texts == [text]
        height, width = 30 * scale, 19 * scale * len(text)  # of the letters, about
        assert area * picture[number][..., 0].size == pytest.approx(height * width, rel=0.6)


@requires_shared
@pytest.mark.slow
def test_a_film_without_text_has_none():
    """One frame of a muzzle's glow is taken for a number; beyond that the 2 % rule drops nothing."""
    pytest.importorskip("rapidocr")
    found = pictures(*MIDDLES, MUZZLE)
    large = [number for number, picture in found.items() if text_of(picture, _reader())[0] > LIMIT]
    assert large in ([], [MUZZLE])


def test_the_middle_frame_is_read_and_bad_clips_are_named(tmp_path, monkeypatch):
    seen = []

    def read(pixels):
        seen.append(pixels)
        return SimpleNamespace(boxes=np.array([box(0, 0, 64, 36)]), txts=("text",), scores=(0.9,))

    monkeypatch.setattr("lavie.curation.score.text._reader", lambda: read)
    clip = moving(0, 9)
    out = make_cut(tmp_path, {"a.mp4": [clip, MadeClip(clip, data=b"no video")]})
    [unit] = made_units(out)
    found = work(unit, TextConfig(ocr=True))
    assert found.columns["text_area"] == [0.25, None] and found.columns["text"] == [["text"], None]
    assert [item.name for item in found.rejected] == found.columns["clip"][1:]
    apart = [np.abs(seen[0][..., ::-1] - frame.astype(float)).mean() for frame in clip]
    assert int(np.argmin(apart)) == 4


def test_no_longer_asking_for_text_leaves_what_was_read_up_to_date():
    assert TEXT.identity(TextConfig(ocr=True)) == TEXT.identity(TextConfig())
