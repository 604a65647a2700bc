"""What was packed before is compared with the source, and new files get numbers that no file has."""

import hashlib

import pytest

from lavie.data.prepare.captioned_file import CaptionedFile
from lavie.data.prepare.earlier import Earlier, caption_hash
from lavie.data.prepare.examine import Examined
from lavie.data.prepare.pack_record import Line


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def line(name: str, number: int, src: str = "/src", **changes) -> Line:
    """Return the line of a packed file whose caption is its name."""
    values = dict(stamp=f"stamp {name}", sha256=sha(f"media {name}"), caption_sha256=sha(name), segment="")
    return Line(src=src, name=name, number=number, **{**values, "shard": "00000.tar", **changes})


def file(name: str, caption: str | None = None, stamp: str | None = None) -> CaptionedFile:
    stamp = f"stamp {name}" if stamp is None else stamp
    return CaptionedFile(name, name, lambda: b"", caption or name, stamp=stamp)


@pytest.mark.parametrize("numbers, expected", (((), 0), ((0,), 1), ((7, 3), 8), ((3, 7, 5), 8)))
def test_numbers_go_on_behind_the_largest(numbers, expected):
    """All sources count, in whatever order they were recorded; a position behind all of them is taken as it is."""
    lines = [line(f"f{n}", n, src=f"/src{n % 2}") for n in numbers]
    earlier = Earlier(lines, "/src1")
    assert [earlier.number(0), earlier.number(0), earlier.number(20), earlier.number(4)] == [
        expected,
        expected + 1,
        20,
        21,
    ]


def test_a_file_is_the_same_by_its_stamp_and_caption():
    earlier = Earlier([line("a", 0), line("b", 1, src="/other")], "/src")
    assert earlier.line_of(file("a")).number == 0 and earlier.line_of(file("b")) is None
    known = earlier.line_of(file("a"))
    assert earlier.is_same(file("a"), known)
    assert not earlier.is_same(file("a", caption="other words"), known)
    assert not earlier.is_same(file("a", stamp="later"), known)
    assert not earlier.is_same(file("a", stamp=""), line("a", 0, stamp=""))  # sources that tell no stamps


def test_the_last_line_of_a_name_counts():
    mended = [line("a", 0, shard=None, reason="undecodable"), line("a", 0)]
    assert Earlier(mended, "/src").line_of(file("a")).shard == "00000.tar"
    assert Earlier(mended[::-1], "/src").line_of(file("a")).shard is None


@pytest.mark.parametrize(
    "caption, sha256, reason",
    (
        ("a", sha("media a"), None),
        ("a", "", None),  # not read
        ("other", sha("media a"), "caption changed"),
        ("a", sha("another"), "media changed"),
        ("other", sha("another"), "caption changed and media changed"),
    ),
)
def test_changes_are_told_and_the_rest_is_kept(caption, sha256, reason):
    earlier = Earlier([line("a", 0), line("gone", 1), line("bad", 2, shard=None), line("far", 3, src="/o")], "/src")
    earlier.compare(file("a", caption), line("a", 0), Examined(sha256))
    assert earlier.kept == (reason is None)
    changes = {found.name: found.reason for found in earlier.changed()}
    assert changes == ({"a": reason} if reason else {}) | {"gone": "gone from the source"}


def test_the_same_sample_of_another_source_is_kept():
    info = object()
    for src, shard, kept in (("/other", "00000.tar", True), ("/other", None, False), ("/src", "00000.tar", False)):
        earlier = Earlier([line("a", 0, src=src, shard=shard)], "/src")
        assert earlier.packed_by_another_name(file("a"), Examined(sha("media a"), info=info)) == kept == earlier.kept
        assert not earlier.packed_by_another_name(file("a"), Examined(sha("media a")))
        assert not earlier.packed_by_another_name(file("a", "b"), Examined(sha("media a"), info=info))
        assert not earlier.packed_by_another_name(file("a"), Examined(sha("media b"), info=info))


def test_the_hash_of_a_caption_is_that_of_its_clean_text():
    assert caption_hash(file("x", "  a   fox \n")) == caption_hash(file("x", "a fox"))
    assert caption_hash(file("x", "a fox")) == sha("a fox")
    assert caption_hash(file("x", " ")) != caption_hash(file("x", "a fox"))


def test_a_name_that_is_gone_may_be_another_one_now():
    info = object()
    lines = [line("old", 0, shard="00000.tar"), line("here", 1, shard="00000.tar")]
    for present, kept in (({"new", "here"}, True), ({"new", "old", "here"}, False), (None, False)):
        earlier = Earlier(lines, "/src", present)
        found = Examined(sha("media old"), info=info)
        assert earlier.packed_by_another_name(file("new", "old"), found) == kept == earlier.kept
        if kept:
            assert ("new", "renamed") in [(item.name, item.reason) for item in earlier.changed()]
            assert "old" not in [item.name for item in earlier.changed()]
            assert not earlier.packed_by_another_name(file("new2", "old"), found)  # it was one sample
