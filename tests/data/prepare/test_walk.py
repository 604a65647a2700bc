"""Every file below a folder is found once, through links too, and what cannot be followed is named."""

import os
from pathlib import Path

import pytest

from lavie.data.prepare.walk import walk
from tests.data.prepare.captioned import MP4, captions, packed, write


def found(src: Path) -> list[tuple[str, str]]:
    """Return what a walk yields: each file's path, and each other's name and what it is."""
    items = []
    for item in walk(src):
        if isinstance(item, Path):
            items.append((str(item.relative_to(src)), "file"))
        else:
            items.append((item.name, getattr(item, "reason", "") or item.what))
    return items


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    write(tmp_path, {"src/a/x.txt": "", "disk/y.txt": "", "disk/deep/z.txt": ""})
    src, disk = tmp_path / "src", tmp_path / "disk"
    (src / "b").symlink_to(disk)  # data on another disk
    (disk / "deep" / "up").symlink_to(disk)  # a loop there
    (disk / "home").symlink_to(src)  # and one back here
    (src / "c").symlink_to(src / "a")  # a second way to what is read anyway
    (src / "d").symlink_to(disk / "deep")
    (src / "e").symlink_to(tmp_path / "nowhere")
    elsewhere = "link to a folder that is read elsewhere"
    assert found(src) == [
        ("a/x.txt", "file"),
        (f"b/deep/up -> {disk}", elsewhere),
        ("b/deep/z.txt", "file"),
        (f"b/home -> {src}", elsewhere),
        ("b/y.txt", "file"),
        (f"c -> {src / 'a'}", elsewhere),
        (f"d -> {disk / 'deep'}", elsewhere),
        ("e", "broken link"),
    ]


def test_a_linked_source_is_read_as_what_it_leads_to(tmp_path):
    write(tmp_path, {"disk/x.txt": ""})
    (tmp_path / "src").symlink_to(tmp_path / "disk")
    assert found(tmp_path / "src") == [("x.txt", "file")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, {"closed/x.txt": ""})
    (tmp_path / "closed").chmod(0)
    assert found(tmp_path) == [("closed", "unreadable folder")]


def test_packing_follows_links_and_names_a_broken_one_once(tmp_path):
    write(
        tmp_path, {"disk/y.mp4": MP4, "disk/y.txt": "two", "src/x.mp4": MP4, "src/x.txt": "one", "src/z.txt": "three"}
    )
    (tmp_path / "src" / "beta").symlink_to(tmp_path / "disk")
    (tmp_path / "src" / "z.mp4").symlink_to(tmp_path / "gone.mp4")
    report, index = packed(tmp_path / "src", tmp_path / "out")
    assert captions(index) == ["one", "two"]
    assert [(r.name, r.reason) for r in report.rejected] == [("z.mp4", "broken link")]


def test_files_of_the_system_are_a_count_of_their_own(tmp_path):
    junk = ("._x.mp4", "._x.txt", ".DS_Store", "__MACOSX/._x.mp4", "Thumbs.db", "sub/Desktop.ini")
    src = write(tmp_path / "src", {"x.mp4": MP4, "x.txt": "one", **dict.fromkeys(junk, b"\0\5\x16\7")})
    report, index = packed(src, tmp_path / "out")
    # The folder __MACOSX is passed over as a whole.
    assert report.passed == {"file of the system": len(junk)}
    assert (report.rejected, captions(index)) == ((), ["one"])


def test_a_name_that_is_no_utf8_is_rejected_by_its_bytes(tmp_path):
    write(tmp_path, {"src/a.mp4": MP4, "src/a.txt": "x"})
    for name in (b"caf\xe9.mp4", b"caf\xe9.txt"):
        (tmp_path / "src" / os.fsdecode(name)).write_bytes(MP4 if name.endswith(b"4") else b"y")
    os.mkdir(os.fsencode(tmp_path / "src") + b"/d\xff")
    assert found(tmp_path / "src") == [
        ("a.mp4", "file"),
        ("a.txt", "file"),
        (r"caf\udce9.mp4", "unreadable name"),
        (r"caf\udce9.txt", "unreadable name"),
        (r"d\udcff", "unreadable name"),
    ]
    report, index = packed(tmp_path / "src", tmp_path / "out")
    assert captions(index) == ["x"] and report.reasons["unreadable name"] == 3


def test_a_pipe_is_counted_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    assert found(tmp_path) == [("a.mp4", "neither file nor folder")]
