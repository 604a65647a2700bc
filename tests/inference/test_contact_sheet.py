"""The sheet shows every clip, evenly sampled, under a caption with ink."""

import numpy as np
import pytest

from lavie.inference.contact_sheet import BORDER, GAP, LINE, MARGIN, Panel, beside, contact_sheet, reduced


def levels(values, height=128, width=128):
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(height, 1).repeat(width, 2).repeat(3, 3)


def test_frames_are_evenly_picked_under_a_caption():
    sheet = contact_sheet([("a caption", levels(range(100, 115)))], columns=8)
    assert sheet.shape == (2 * MARGIN + LINE + 128, 2 * MARGIN + 8 * (128 + GAP) - GAP, 3)
    row = sheet[MARGIN + LINE + 64, MARGIN + 64 :: 128 + GAP, 0]
    assert row.tolist() == [100, 102, 104, 106, 108, 110, 112, 114]
    assert (sheet[MARGIN : MARGIN + LINE] < 128).any()


def test_rows_may_differ_in_size_and_length():
    sheet = contact_sheet([("small", levels([10, 20], 32, 48)), ("large", levels([30], 640, 1024)), ("", levels([40]))])
    assert {10, 20, 30, 40} <= set(np.unique(sheet))


def test_images_share_rows():
    sheet = contact_sheet([(f"image {i}", levels([i])) for i in range(10)], columns=8)
    assert sheet.shape[1] == 2 * MARGIN + 8 * (128 + GAP) - GAP
    assert sheet.shape[0] == 3 * MARGIN + 2 * (LINE + 128)


def test_long_captions_wrap():
    one = contact_sheet([("word", levels([1]))])
    many = contact_sheet([("word " * 30, levels([1]))])
    assert many.shape[1] == one.shape[1]
    assert many.shape[0] > one.shape[0] + 3 * LINE


def pixels_of(sheet, colour):
    """Whether a colour such as "#c1121f" is in a sheet."""
    return (sheet == np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])).all(-1)


def test_wrong_captions_marked_frames_and_true_clips():
    plain = contact_sheet([("a caption", levels([10, 20, 30]))])
    assert not pixels_of(plain, "#c1121f").any()
    wrong = contact_sheet([Panel("a caption", levels([10, 20, 30]), wrong=True)])
    assert pixels_of(wrong, "#c1121f")[MARGIN : MARGIN + LINE].any()

    marked = pixels_of(contact_sheet([Panel("a caption", levels([10, 20, 30]), marked=(0, 2))]), "#e08a1e")
    middle = marked[MARGIN + LINE + 64]
    starts = [MARGIN + number * (128 + GAP) for number in (0, 2)]
    edges = [x + i for x in starts for i in (*range(BORDER), *range(128 - BORDER, 128))]
    assert np.flatnonzero(middle).tolist() == edges

    both = contact_sheet([Panel("a caption", levels([10, 20]), truth=levels([30, 40]))])
    row = both[MARGIN + LINE + 64, :, 0]
    assert [value for value in (10, 20, 30, 40) if value in row] == [10, 20, 30, 40]


def test_panels_beside_one_another_in_smaller_tiles():
    clips = [(f"clip {number}", levels([number, number], 24, 24)) for number in range(4)]
    sheet = contact_sheet(clips, across=2, tile=48)
    assert sheet.shape[0] == 3 * MARGIN + 2 * (LINE + 48)
    assert sheet.shape[1] == 2 * MARGIN + 2 * (2 * 48 + GAP) + 3 * MARGIN


def test_clips_play_side_by_side_over_the_same_time():
    short = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 3, 3), np.uint8)
    long = 100 + np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 6, 9, 3), np.uint8)
    both = beside([short, long])
    assert both.shape == (5, 6, 6 + GAP + 9, 3)
    assert both[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert both[:, -1, -1, 0].tolist() == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("size", ((16, 24), (200, 300), (128, 256), (320, 512), (40, 700), (300, 601)))
@pytest.mark.parametrize("frames", (1, 5, 11))
def test_a_reduced_clip_gives_the_same_sheet(size, frames):
    clip = np.random.default_rng(0).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    small = reduced(clip, 4)
    assert small.nbytes <= clip.nbytes and len(small) == min(frames, 4)
    assert (contact_sheet([("a", small)], columns=4) == contact_sheet([("a", clip)], columns=4)).all()
