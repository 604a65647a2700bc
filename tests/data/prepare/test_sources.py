"""Each shape of source gives the same captioned files, and names what cannot be one."""

import csv
import json
import tarfile

import pytest

from lavie.data.prepare.sources import read_source
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from tests.data.prepare.captioned import MP4, captions, image, packed, write
from tests.data.tars import make_tar

pytestmark = pytest.mark.usefixtures("reversed_folders")


def test_a_folder_of_media_with_texts(tmp_path):
    src = write(
        tmp_path / "src",
        {
            "a.mp4": MP4,
            "a.txt": "one",
            "sub/v1.0_clip.MP4": MP4,
            "sub/v1.0_clip.txt": "two\n",
            "b.jpeg": image("jpeg"),
            "b.txt": "three",
            "c.png": image(),
            "c.txt": "four",
        },
    )
    report, index = packed(src, tmp_path / "out")
    assert (report.videos, report.images, report.rejected, report.converted) == (2, 2, (), ())
    assert [(s.caption, s.member) for s in index] == [
        ("one", "000000000-a.mp4"),
        ("two", "000000003-v1_0_clip.mp4"),
        ("three", "000000001-b.jpg"),
        ("four", "000000002-c.png"),
    ]
    assert read_member(index[0]) == MP4
    with tarfile.open(report.shards[0]) as tar:
        notes = json.load(tar.extractfile("000000003-v1_0_clip.json"))
        assert notes == {"original": "sub/v1.0_clip.MP4"}
        assert all(m.mtime == 0 and m.isreg() for m in tar)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


@pytest.mark.parametrize("media_column", ("path", "file_path", "video_path", "video", "image", "file_name"))
@pytest.mark.parametrize("caption_column", ("text", "caption", "cap"))
def test_tables_by_each_column_name(tmp_path, media_column, caption_column):
    src = write(tmp_path / "src", {"media/a.png": image()})
    row = {media_column: "media/a.png", caption_column: 'a "quoted", café', "other": "1"}
    with open(src / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    (src / "t.jsonl").write_text(json.dumps(row) + "\n\n")
    for name in ("t.csv", "t.jsonl"):
        _, index = packed(src / name, tmp_path / name)
        assert captions(index) == ['a "quoted", café']


@pytest.mark.parametrize("table", ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv"))
def test_a_folder_with_a_table(tmp_path, table):
    src = write(tmp_path / "src", {"a.mp4": MP4, "extra.mp4": MP4, "LICENSE": "text"})
    write(src, {table: "path,text\na.mp4,one\n" if table.endswith("csv") else '{"path": "a.mp4", "text": "one"}\n'})
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["one"]
    assert [(r.name, r.reason) for r in report.rejected] == [("extra.mp4", "no caption")]


def test_videos_and_prompts_line_to_line(tmp_path):
    lists = {"videos.txt": "v/a.mp4\nv/b.mp4\n", "prompts.txt": "one\ntwo\n"}
    src = write(tmp_path / "src", {"v/a.mp4": MP4, "v/b.mp4": MP4, **lists})
    _, index = packed(src, tmp_path / "out")
    assert [s.caption for s in index] == ["one", "two"]
    write(src, {"prompts.txt": "one\n"})
    with pytest.raises(DataError, match=r"videos\.txt has 2 lines and prompts\.txt 1"):
        packed(src, tmp_path / "out2")


def test_shards_of_another_tool_are_packed_anew(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    members = [("k/1.2.mp4", MP4), ("k/1.2.txt", b"one"), ("k/3.pkl", b""), ("k/4.mp4", MP4)]
    make_tar(src / "x-000.tar", members)
    report, index = packed(src, tmp_path / "out")
    assert [(s.key, s.caption) for s in index] == [("000000002-1_2", "one")]
    assert [(r.name, r.reason) for r in report.rejected] == [
        ("x-000.tar:k/3.pkl", "unknown extension"),
        ("x-000.tar:k/4.mp4", "no caption"),
    ]


@pytest.mark.parametrize(
    "row, name, reason",
    (
        ({"text": "x"}, "t.jsonl, line 2", "no media path"),
        ({"path": "a.mp4"}, "a.mp4", "no caption"),
        ({"path": "a.mp4", "text": 5}, "a.mp4", "no caption"),
        ({"path": "good.mp4", "text": "x"}, "good.mp4", "duplicate key"),
        ({"path": "gone.mp4", "text": "x"}, "gone.mp4", "missing file"),
        ({"path": "https://example.com/a.mp4", "text": "x"}, "https://example.com/a.mp4", "missing file"),
        ({"path": "a.wmv", "text": "x"}, "a.wmv", "unknown extension"),
    ),
)
def test_rows_of_a_table_that_cannot_be_used(tmp_path, row, name, reason):
    src = write(tmp_path / "src", {"good.mp4": MP4, "a.mp4": MP4, "a.wmv": b""})
    (src / "t.jsonl").write_text(json.dumps({"path": "good.mp4", "text": "good"}) + "\n" + json.dumps(row) + "\n")
    report, index = packed(src / "t.jsonl", tmp_path / "out")
    assert captions(index) == ["good"]
    assert [(r.name, r.reason) for r in report.rejected] == [(name, reason)]


@pytest.mark.parametrize(
    "name, text", (("t.jsonl", '{"path": 1}\n{"pa'), ("t.jsonl", "{}\n[1]"), ("t.csv", 'path,text\n"a,b'))
)
def test_a_broken_table_is_an_error_with_its_line(tmp_path, name, text):
    src = write(tmp_path, {name: text})
    with pytest.raises(DataError, match=rf"{name}, line \d"):
        packed(src / name, tmp_path / "out")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        packed(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"a file, but no \.csv"):
        packed(write(tmp_path, {"x.zip": b""}) / "x.zip", tmp_path / "out")


def test_a_table_of_other_separators_or_letters_is_read(tmp_path):
    for number, (name, text) in enumerate(
        (("a.csv", "path;text\nfilm.mp4;a fox\n"), ("b.csv", "path\ttext\nfilm.mp4\ta, fox; red\n"))
    ):
        write(tmp_path, {name: text, "film.mp4": MP4})
        _, index = packed(tmp_path / name, tmp_path / f"out{number}")
        assert captions(index) == [("a fox", "a, fox; red")[number]]
    write(tmp_path / "src", {"Metadata.CSV": "path,text\nfilm.mp4,a fox\n", "film.mp4": MP4})
    assert captions(packed(tmp_path / "src", tmp_path / "upper")[1]) == ["a fox"]


def test_a_table_that_is_no_utf8_says_so(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,text\nfilm.mp4,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv: it is no UTF-8 .*: save it as UTF-8"):
        packed(tmp_path / "t.csv", tmp_path / "out")


def test_a_table_that_is_not_looked_for_is_named(tmp_path):
    src = write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x", "a.json": "{}", "captions.json": "[]", "x.parquet": ""})
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["x"]
    assert [(r.name, r.reason) for r in report.rejected] == [
        ("captions.json", "table not read"),
        ("x.parquet", "table not read"),
    ]


def test_loose_media_beside_shards_are_named(tmp_path):
    write(tmp_path / "src", {"a.mp4": MP4, "a.txt": "x"})
    packed(tmp_path / "src", tmp_path / "shards")
    write(tmp_path / "shards", {"b.mp4": MP4, "b.txt": "y"})
    report, index = packed(tmp_path / "shards", tmp_path / "out")
    assert captions(index) == ["x"]
    assert [(r.name, r.reason) for r in report.rejected] == [("b.mp4", "loose file beside shards")]


def test_shards_are_read_by_name(tmp_path):
    for number in (2, 0, 1):
        make_tar(tmp_path / f"0000{number}.tar", [(f"k{number}.mp4", MP4), (f"k{number}.txt", b"words")])
    assert [found.name for found in read_source(tmp_path)] == [f"0000{n}.tar:k{n}.mp4" for n in range(3)]
