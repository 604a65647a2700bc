"""The check finds each planted defect, names it, and finds nothing in a sound set."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lavie.data.check.check import check, find_shards
from lavie.data.check.report import PROBLEMS, UNUSABLE
from lavie.data.media.decode import decode_frames
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index import load_index
from tests.data.check.planted import CAPTION, GOOD, make_shard, moving, png, still
from tests.data.media.videos import DEFAULT, NONE, encode, several

pytestmark = pytest.mark.usefixtures("reversed_folders")


def problems(report):
    return sorted((f.reason, Path(f.name).name) for f in report.findings)


def test_a_sound_set_has_no_findings(demo):
    tars = sorted((demo / "train").glob("*.tar"))
    report = check(tars, decode=12, num_frames=8)
    assert report.findings == []
    assert report.usable
    index = load_index((str(demo / "train"),))
    facts = report.as_json()
    assert (facts["videos"], facts["images"]) == (len(index.videos), len(index.images)) == (24, 10)
    assert facts["sizes"] == {"32x32": 34}
    assert len(report.decoded) == 12
    assert all(f.dtype == np.uint8 for _, f in report.decoded)
    assert report.durations == pytest.approx([s.duration for s in index.videos])
    assert sorted(report.words) == sorted(len(s.caption.split()) for s in index)


PLANTED = {
    "short.mp4": ({"short.mp4": moving(2, 15), "short.txt": CAPTION}, "too short"),
    "uneven.mp4": (
        {"uneven.mp4": moving(3, times=[i / 8 + 0.04 * (i % 2) for i in range(16)]), "uneven.txt": CAPTION},
        "variable frame rate",
    ),
    "again.mp4": ({"again.mp4": GOOD["a.mp4"], "again.txt": b"the same clip of the noise"}, "duplicate media"),
    "mute.mp4": ({"mute.mp4": moving(4)}, "no caption"),
    "blank.txt": ({"blank.mp4": moving(5), "blank.txt": b" "}, "unusable caption"),
    "zero.mp4": ({"zero.mp4": b"", "zero.txt": CAPTION}, "zero-byte"),
    "broken.mp4": ({"broken.mp4": moving(6)[:700], "broken.txt": CAPTION}, "undecodable"),
    "named.jpg": ({"named.jpg": png(7), "named.txt": CAPTION}, "name and content differ"),
    "x.pkl": ({"x.pkl": b""}, "unknown extension"),
    "brief.png": ({"brief.png": png(8), "brief.txt": b"two words"}, "short caption"),
    "script.png": ({"script.png": png(9), "script.txt": "一只猫 坐在 桌子上".encode()}, "other script"),
    "other.png": ({"other.png": png(10), "other.txt": b"ein Hund rennt durch den Park"}, "not English"),
    "black.mp4": ({"black.mp4": still(0), "black.txt": CAPTION}, "black"),
    "frozen.mp4": ({"frozen.mp4": still(120), "frozen.txt": CAPTION}, "frozen"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_defect_is_found_by_name(tmp_path, name):
    members, reason = PLANTED[name]
    report = check([make_shard(tmp_path / "0.tar", {**GOOD, **members})], decode=10)
    found = problems(report)
    assert (reason, f"0.tar:{name}") in found
    assert {r for r, _ in found} <= {reason} | ({"frozen"} if reason == "black" else set())
    assert report.usable == (reason not in UNUSABLE)
    assert reason in PROBLEMS


def test_what_had_to_be_interpreted_is_counted_and_some_of_it_named(tmp_path):
    """The index says it, so that every sample counts, and none is decoded for it."""
    frames = np.random.default_rng(0).integers(40, 256, (16, 32, 32, 3), np.uint8)
    members = {
        "wide.mp4": encode(frames, tags={"sample_aspect_ratio": Fraction(3, 2), "colorspace": 1}),
        "hlg.mp4": encode(frames[::-1], tags={"color_trc": 18, "colorspace": 9}),
        "lines.mp4": encode(frames[1:], options={"x264-params": "interlaced=1"}),
        "two.mp4": several("mp4", ("mjpeg", (32, 32), 1, NONE), ("libx264", (48, 64), 16, DEFAULT)),
    }
    texts = {name.replace("mp4", "txt"): f"a clip of the {name[:-4]} kind".encode() for name in members}
    report = check([make_shard(tmp_path / "0.tar", members | texts)], num_frames=8)
    facts = report.as_json()
    assert facts["interpreted"] == {
        "several video streams": 1,
        "pixels not square": 1,
        "no colour matrix named": 2,
        "high dynamic range": 1,
        "interlaced": 1,
    }
    assert problems(report) == [("interlaced", "0.tar:lines.mp4"), ("several video streams", "0.tar:two.mp4")]
    assert report.usable and facts["sizes"] == {"32x32": 2, "48x32": 1, "64x48": 1}


def test_bytes_that_changed_after_the_index(tmp_path):
    tar = make_shard(tmp_path / "0.tar", GOOD)
    sample = index_shard(tar)[0][0]
    data = bytearray(tar.read_bytes())
    data[sample.offset + sample.size // 2] ^= 1
    tar.write_bytes(data)
    report = check([tar])
    assert ("corrupted", "0.tar:a.mp4") in problems(report)
    assert {r for r, _ in problems(report)} <= {"corrupted", "index does not fit"}
    assert not report.usable
    assert report.as_json()["videos"] == 0
    assert report.as_json()["images"] == 1


def test_a_truncated_shard_costs_its_own_samples(tmp_path):
    first = make_shard(tmp_path / "0.tar", GOOD)
    other = {"c.mp4": moving(11), "c.txt": CAPTION}
    second = make_shard(tmp_path / "1.tar", other)
    first.write_bytes(first.read_bytes()[:3000])
    report = check([first, second])
    assert {r for r, _ in problems(report)} == {"truncated shard", "index does not fit"}
    assert all(Path(f.name).name == "0.tar" for f in report.findings)
    assert report.lost == 2
    assert report.as_json()["videos"] == 1


def test_a_member_that_the_index_has_and_the_tar_has_not(tmp_path):
    tar = make_shard(tmp_path / "0.tar", GOOD)
    make_shard(tar, {k: v for k, v in GOOD.items() if not k.startswith("b")}, index=False)
    assert ("missing", "0.tar:b") in problems(check([tar]))


def test_shards_without_an_index_are_examined_too(tmp_path):
    report = check([make_shard(tmp_path / "0.tar", GOOD, index=False)], decode=2)
    assert problems(report) == [("no index", "0.tar")]
    assert report.usable
    assert len(report.decoded) == 2


def test_a_shard_that_is_none(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"PK\x03\x04" * 400)
    report = check([tmp_path / "0.tar"])
    assert problems(report)[0] == ("damaged shard", "0.tar")
    assert not report.usable


def test_shards_of_very_different_sizes(tmp_path):
    tars = [make_shard(tmp_path / f"{i}.tar", {f"{i}.png": png(i), f"{i}.txt": CAPTION}) for i in range(3)]
    many = {f"x{i}{end}": d for i in range(4) for end, d in ((".png", png(20 + i)), (".txt", CAPTION))}
    report = check([*tars, make_shard(tmp_path / "3.tar", many)])
    assert problems(report) == [("unbalanced shards", "3.tar")]
    assert report.duplicate_captions == 6


def test_categories_and_scores_of_the_sidecars(tmp_path):
    notes = [{"category": "food", "aesthetic_score": 5.5}, {"categories": ["food", "people"], "aesthetic": 4}]
    hostile = [
        b"[" * 50_000,
        b"\xff",
        b"3",
        b'{"category": {"a": 1}, "aesthetic": "x"}',
        b'{"aesthetic": NaN}',
        b'{"aesthetic": 1' + b"0" * 400 + b"}",
    ]
    members = {}
    for i, text in enumerate([*(json.dumps(n).encode() for n in notes), *hostile]):
        members |= {f"{i}.png": png(i), f"{i}.txt": CAPTION, f"{i}.json": text}
    report = check([make_shard(tmp_path / "0.tar", members)])
    assert report.categories == {"food": 2, "people": 1}
    assert report.aesthetic == [5.5, 4.0]


def test_decoders_that_disagree(tmp_path):
    tar = make_shard(
        tmp_path / "0.tar", GOOD | {"c.mp4": moving(8), "c.txt": CAPTION, "d.mp4": moving(9), "d.txt": CAPTION}
    )
    answers = {"a": ("agree", ""), "c": ("disagree", "by 9 of 255"), "d": ("not compared", "no such codec")}

    def compare(sample, data, indices, height, width):
        assert decode_frames(data, indices).shape[1:3] == (height, width)
        return answers[sample.key]

    report = check([tar], decode=9, compare=compare)
    assert problems(report) == [("decoders disagree", "0.tar:c.mp4")]
    assert report.findings[0].detail == "by 9 of 255"
    assert report.as_json()["decoders"] == {"agree": 1, "disagree": 1, "not compared": {"no such codec": 1}}


def test_shards_of_a_folder_come_by_name(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b.tar", "a.tar", "c.tar", "more/z.tar"):
        make_shard(tmp_path / name, GOOD)
    more = tmp_path / "more/z.tar"
    assert find_shards([more, tmp_path]) == [more, *(tmp_path / f"{name}.tar" for name in "abc")]
