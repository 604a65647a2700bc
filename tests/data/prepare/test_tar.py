"""The strict reader agrees with Python's tarfile on sound archives, and names the damage in others."""

import io
import tarfile

import pytest

from lavie.data.prepare.tar import Member, read_members
from lavie.errors import DataError

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "a-folder/" * 30 + "clip.mp4"


def write(path, format, members):
    """Write a tar of a format of tarfile; members are (name, type, content)."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "target"
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_members_as_tarfile(tmp_path, format):
    members = [
        ("folder", tarfile.DIRTYPE, b""),
        ("folder/v1.0_clip.mp4", tarfile.REGTYPE, b"x" * 700),
        ("Bär.txt", tarfile.REGTYPE, b"y" * 512),
        ("empty.json", tarfile.REGTYPE, b""),
        ("link.mp4", tarfile.SYMTYPE, b""),
        ("old.png", tarfile.AREGTYPE, b"z"),
        ("p/" * 60 + "prefix.jpg", tarfile.REGTYPE, b"w" * 30),
    ]
    if format != tarfile.USTAR_FORMAT:
        members.insert(2, (LONG, tarfile.REGTYPE, b"long"))
    path = write(tmp_path / "0.tar", format, members)
    with tarfile.open(path) as tar:
        kinds = {True: "file", False: "other"}
        expected = [
            Member(m.name, "folder" if m.isdir() else kinds[m.isreg()], m.offset_data, m.size) for m in tar.getmembers()
        ]
    assert list(read_members(path)) == expected
    assert len(expected) == len(members)


def test_a_size_in_base_256(tmp_path):
    info = tarfile.TarInfo("a.mp4")
    info.size = 5
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "0.tar"
    path.write_bytes(bytes(header) + b"hello".ljust(512, b"\0") + bytes(1024))
    assert list(read_members(path)) == [Member("a.mp4", "file", 512, 5)]


def test_every_header_byte_is_covered_by_the_checksum(tmp_path):
    """tarfile takes a damaged second header for the end: all that follows is lost without a word."""
    path = write(tmp_path / "0.tar", tarfile.GNU_FORMAT, [(f"{i}.txt", tarfile.REGTYPE, b"text") for i in range(3)])
    whole = path.read_bytes()
    for place in range(1024, 1536, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"0\.tar: cannot be read"):
            list(read_members(path))


def test_what_came_before_the_damage_is_given(tmp_path):
    path = write(tmp_path / "0.tar", tarfile.GNU_FORMAT, [("a.txt", tarfile.REGTYPE, b"text")] * 2)
    path.write_bytes(path.read_bytes()[:1600])
    reader = read_members(path)
    assert next(reader).name == "a.txt"
    assert next(reader).name == "a.txt"
    with pytest.raises(DataError, match="cut short"):
        next(reader)


def test_an_empty_archive_and_a_lost_one(tmp_path):
    assert list(read_members(write(tmp_path / "0.tar", tarfile.GNU_FORMAT, []))) == []
    with pytest.raises(DataError, match=r"gone\.tar"):
        list(read_members(tmp_path / "gone.tar"))
