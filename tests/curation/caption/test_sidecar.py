"""Captions that are there already: beside films, and in tables by clip or by parts of films."""

import csv
import json
import os

import pytest

pytest.importorskip("pyarrow")

from lavie.curation.caption.base import Asked, NoCaption
from lavie.curation.caption.sidecar import SidecarTable, TextsBeside, check_table
from lavie.curation.table import arrow
from lavie.errors import ConfigError, DataError

pa = arrow()


def clip(name: str, film: str = "cats/a.mp4", t0: float = 0.0, t1: float = 4.0) -> Asked:
    """A clip at 10 frames per second."""
    return Asked(dict(clip=name, film=film, t0=t0, t1=t1, start=int(10 * t0), end=int(10 * t1)), None)


def said(answers) -> list[str | None]:
    return [None if isinstance(answer, NoCaption) else answer for answer in answers]


def test_the_text_beside_a_film_is_that_of_all_its_clips(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.txt").write_text("\ufeffa cat\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "c.txt").write_bytes(b"x" * (1 << 17))
    ask = TextsBeside(tmp_path)
    answers = ask([clip("1"), clip("2"), clip("3", "b.mp4"), clip("4", "c.mp4"), clip("5", "d.mp4")])
    assert said(answers) == ["a cat\n", "a cat\n", None, None, None]
    assert [answer.detail for answer in answers[2:]] == [
        "b.txt is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "c.txt has more than 65536 bytes",
        "wanted d.txt beside d.mp4",
    ]


ROWS = [
    {"clip": "x1", "caption": "the clip itself"},
    {"film": "cats/a.mp4", "caption": "all of the film"},
    {"film": "cats/a.mp4", "start": "0", "end": "7", "caption": "0 to 7"},
    {"film": "cats/a.mp4", "start": "7", "end": "9.5", "caption": "7 to 9.5"},
    {"film": "b.mp4", "start": "4", "caption": "b from 4 on"},
    {"film": "b.mp4", "start_frame": "0", "end_frame": "30", "caption": "b, 30 frames"},
    {"film": "c.mp4", "start": "0", "end": "10", "caption": ""},
]
COLUMNS = ("clip", "film", "start", "end", "start_frame", "end_frame", "caption")


def write(path, rows, columns=COLUMNS):
    """Write rows as the kind of table that a path's name says; numbers are numbers where the kind has them."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [name.upper() if name == "clip" else name for name in columns])
            writer.writeheader()
            writer.writerows({"CLIP" if name == "clip" else name: value for name, value in row.items()} for row in rows)
        return
    numbers = {name for name in columns if name.startswith(("start", "end"))}
    rows = [{name: float(value) if name in numbers else value for name, value in row.items()} for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pa.parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)


@pytest.mark.parametrize("suffix", (".csv", ".jsonl", ".parquet"))
@pytest.mark.parametrize("by", ("source", "table", "whole"))
def test_the_row_of_the_clip_or_of_most_time_in_common(tmp_path, suffix, by):
    src, table = tmp_path / "films", tmp_path / "tables" / f"captions{suffix}"
    table.parent.mkdir()
    place = {"source": "", "table": "../films/", "whole": f"{src}/"}[by]
    write(table, [row | ({"film": place + row["film"]} if "film" in row else {}) for row in ROWS])
    ask = SidecarTable(table, src)
    asked = (
        (clip("x1"), "the clip itself"),
        (clip("1", t0=1, t1=3), "0 to 7"),
        (clip("2", t0=6, t1=9), "7 to 9.5"),
        (clip("3", t0=0, t1=20), "0 to 7"),
        (clip("4", t0=9.4, t1=12), "all of the film"),
        (clip("5", "b.mp4", t0=2, t1=4.5), None),  # 1 of 2.5 s, and 0.5 of them
        (clip("6", "b.mp4", t0=3.5, t1=6), "b from 4 on"),
        (clip("7", "b.mp4", t0=3.1, t1=3.9), None),
        (clip("8", "b.mp4", t0=2, t1=4), "b, 30 frames"),
        (clip("9", "c.mp4"), None),
        (clip("10", "d.mp4"), None),
    )
    answers = ask([one for one, _ in asked])
    assert said(answers) == [expected for _, expected in asked]
    assert f"captions{suffix} has no row of the clip, nor of b.mp4 from 3.10 to 3.90 s" in answers[7].detail


def test_half_of_the_shorter_is_enough(tmp_path):
    write(tmp_path / "t.jsonl", [{"film": "a.mp4", "start": 4, "end": 6, "caption": "two seconds"}])
    ask = SidecarTable(tmp_path / "t.jsonl", tmp_path)
    times = {(0, 20): True, (0, 5): True, (0, 4.9): False, (5, 6.9): True, (5, 9): True, (5.1, 8): False, (6, 9): False}
    found = ask([clip(f"{i}", "a.mp4", t0, t1) for i, (t0, t1) in enumerate(times)])
    assert [text is not None for text in said(found)] == list(times.values())


@pytest.mark.parametrize(
    "rows, message",
    (
        ([{"caption": "x"}], "names neither a clip nor a film"),
        ([{"film": "a.mp4", "start": 3, "end": 1, "caption": "x"}], "line 1: it starts at 3 and ends at 1"),
        ([{"film": "a.mp4", "caption": "x"}] * 2, "line 2: line 1 is about the same film"),
        ([{"clip": "1", "caption": "x"}] * 2, "line 2: line 1 is about the same clip"),
        ([{"film": "a.mp4", "start_s": 3, "caption": "x"}], "the column 'start_s' is not read"),
        ([["a.mp4", "x"]], "cannot be read as jsonl: wanted an object"),
    ),
)
def test_a_table_with_a_broken_row_is_to_be_mended(tmp_path, rows, message):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        SidecarTable(tmp_path / "t.jsonl", tmp_path)([clip("1", "a.mp4")])


def test_a_table_is_read_anew_when_it_changes(tmp_path):
    table = tmp_path / "t.jsonl"
    for i, text in enumerate(("one", "two")):
        write(table, [{"clip": "1", "caption": text}])
        os.utime(table, ns=(i, i))
        assert SidecarTable(table, tmp_path)([clip("1")]) == [text]


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.xlsx").touch()
    (tmp_path / "t.parquet").write_bytes(b"no parquet at all")
    pa.parquet.write_table(pa.table({"name": ["a"], "caption": ["b"]}), tmp_path / "u.parquet")
    with pytest.raises(ConfigError, match=r"sidecar:.*t.xlsx: not one; wanted a \.csv, \.jsonl, \.parquet"):
        check_table(tmp_path / "t.xlsx")
    with pytest.raises(ConfigError, match=r"sidecar:.*t.csv: no such file"):
        check_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        SidecarTable(tmp_path / "t.parquet", tmp_path)([clip("1")])
    with pytest.raises(DataError, match=r"no column clip \| film"):
        SidecarTable(tmp_path / "u.parquet", tmp_path)([clip("1")])
