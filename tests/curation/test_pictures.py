"""Pictures of clips: the same as those of a full decode, whatever is decoded for their sake."""

import numpy as np
import pytest

from lavie.curation import pictures as module
from lavie.curation.pictures import LARGEST, look_at_clips, midpoints, read_pictures
from lavie.data.media.decode import decode_frames
from lavie.errors import DataError
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving
from tests.data.media.videos import encode


def test_the_middle_of_each_part():
    assert midpoints(16, 4) == [2, 6, 10, 14]
    assert midpoints(60, 3) == [10, 30, 50]
    assert midpoints(1, 4) == [0, 0, 0, 0] and midpoints(3, 4) == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "options", ({"g": "8", "bf": "2"}, {"g": "100"}, {"g": "8", "flags": "-cgop", "sc_threshold": "0"})
)
def test_pictures_are_the_frames_of_a_full_decode(monkeypatch, options):
    data = encode(moving(0, 40), options=options)
    wanted = [2, 2, 9, 20, 37]
    groups = []
    read = module.read_frames
    monkeypatch.setattr(
        module, "read_frames", lambda data, group, frames: groups.append(group) or read(data, group, frames)
    )
    found = read_pictures(data, wanted, 40, None)
    np.testing.assert_array_equal(found, decode_frames(data, wanted))
    if options["g"] == "8" and len(options) == 2:
        assert groups == [[2, 2], [9], [20], [37]]  # each from the keyframe before it
    if options["g"] == "100":
        assert groups == [wanted]


def test_a_clip_that_is_shorter_than_cut_says_is_refused():
    with pytest.raises(DataError, match="the video ends before"):
        read_pictures(encode(moving(0, 8)), [3, 30], 40, None)


def test_large_pictures_are_made_smaller_and_grey_ones_have_their_width():
    data = encode([np.full((2160, 64, 3), 99, np.uint8)], options={"preset": "ultrafast"})
    assert read_pictures(data, [0], 1, None).shape == (1, 2160, 64, 3)  # its short side is not large
    tall = encode([np.full((2 * LARGEST + 2, 2 * LARGEST + 2, 3), 99, np.uint8)], options={"preset": "ultrafast"})
    small = read_pictures(tall, [0], 1, None)
    assert small.shape == (1, 721, 721, 3) and np.abs(small - 99.0).max() <= 2
    grey = read_pictures(encode(moving(0, 1, 72, 128)), [0], 1, 64)
    assert grey.shape == (1, 36, 64)


@pytest.mark.parametrize("decoders", (1, 3))
def test_looks_come_in_the_order_of_cut(tmp_path, decoders):
    clips = [moving(seed, 4 + seed) for seed in range(6)]
    out = make_cut(tmp_path, {"a.mp4": [*clips, MadeClip(clips[0], data=b"")]})
    [unit] = made_units(out)
    looks = list(look_at_clips(unit, lambda frames: [frames - 1], decoders=decoders))
    assert [look.row["clip"] for look in looks] == unit.read("cut")["clip"].to_pylist()
    for look, clip in zip(looks[:6], clips, strict=True):
        assert np.abs(look.pictures[0] - clip[-1].astype(float)).mean() < 6
    assert looks[6].pictures is None and looks[6].rejected.reason == "cannot be decoded"
