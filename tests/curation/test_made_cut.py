"""The curation that other tests begin with holds what they gave it."""

import tarfile

import numpy as np
import pytest

from lavie.data.media.decode import decode_frames
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving


def test_clips_are_found_as_they_were_given(tmp_path):
    pytest.importorskip("cv2")
    pictures = [moving(seed, 8) for seed in range(3)]
    junk = MadeClip(pictures[0], data=b"no video", row={"height": 1080})
    out = make_cut(tmp_path, {"cats/a.mp4": pictures[:2], "b.mp4": [pictures[2], junk]}, films_a_unit=1, measured=True)
    units = made_units(out)
    assert [[film.film for film in unit.films] for unit in units] == [["b.mp4"], ["cats/a.mp4"]]
    first, second = (unit.read("cut").to_pylist() for unit in units)
    assert [(row["start"], row["end"], row["category"]) for row in second] == [(0, 8, "cats"), (8, 16, "cats")]
    assert units[0].clip_bytes(first[1]) == b"no video" and first[1]["height"] == 1080
    for row, wanted in zip(second, pictures[:2], strict=True):
        found = decode_frames(units[1].clip_bytes(row), [0, 7])
        assert np.abs(found.astype(float) - wanted[[0, 7]]).mean() < 5  # another picture is 40 away
    with tarfile.open(out / f"clips/{units[1].name}.tar") as tar:
        assert [member.name for member in tar] == [f"{row['clip']}.mp4" for row in second]
    values = units[1].frames()["cats/a.mp4"]
    assert len(values["diff"]) == 16 and values["diff"].argmax() == 8  # the cut between its two clips
