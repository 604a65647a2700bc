"""Segments cover a clip without gaps, and each but the first is given frames of the one before."""

import pytest

from lavie.errors import ConfigError
from lavie.inference.segments import Segment, cut_segments


def test_a_clip_of_several_segments():
    assert cut_segments(36, 16, 4) == [Segment(0, 0, 16), Segment(12, 16, 28), Segment(24, 28, 36)]
    assert cut_segments(28, 16, 4) == [Segment(0, 0, 16), Segment(12, 16, 28)]
    assert cut_segments(7, 6, 1) == [Segment(0, 0, 6), Segment(5, 6, 7)]


@pytest.mark.parametrize("overlap", (0, 4, 40))
def test_a_short_clip_is_one_segment_whatever_the_overlap(overlap):
    assert cut_segments(16, 16, overlap) == [Segment(0, 0, 16)]


@pytest.mark.parametrize("overlap", range(1, 6))
def test_every_frame_is_added_once_and_within_a_window(overlap):
    for frames in range(7, 40):
        segments = cut_segments(frames, 6, overlap)
        added = [frame for segment in segments for frame in range(segment.new, segment.stop)]
        assert added == list(range(frames))
        assert all(segment.stop - segment.begin <= 6 for segment in segments)
        assert all(segment.new - segment.begin == overlap for segment in segments[1:])


@pytest.mark.parametrize("overlap", (0, 16, 17))
def test_a_segment_must_be_given_and_add_a_frame(overlap):
    with pytest.raises(ConfigError, match=rf"base.overlap: got {overlap} frames .* wanted 1 .. 15"):
        cut_segments(17, 16, overlap)
