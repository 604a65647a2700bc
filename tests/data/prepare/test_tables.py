"""The columns of tables: read, passed over, or refused because they would change what a row means."""

import json

import numpy as np
import pytest

from lavie.data.media.decode import decode_frames, frame_times
from lavie.data.media.encode import encode_mp4
from lavie.data.shards.member import read_member
from lavie.errors import DataError
from tests.data.prepare.captioned import captions, image, packed, write

FPS = 10


def film(frames: int = 100, **times) -> bytes:
    """Return a film of 48 x 32 pixels that shows the number of each frame: tens at the left, units at the right."""
    pixels = np.zeros((frames, 32, 48, 3), np.uint8)
    numbers = np.arange(frames)[:, None, None, None]
    pixels[:, :, :24], pixels[:, :, 24:] = 20 + 20 * (numbers // 10), 20 + 20 * (numbers % 10)
    return encode_mp4(pixels, **(times or {"fps": FPS}))


FILM = film()


def numbers(sample) -> list[int]:
    """Return the numbers that a sample's frames show."""
    frames = decode_frames(read_member(sample), range(sample.frames))
    return [round(f[:, 4:20].mean() / 20 - 1) * 10 + round(f[:, 28:44].mean() / 20 - 1) for f in frames]


def table(folder, text: str, **media: bytes):
    """Write a film and a table of it, and return the table's path."""
    name = "t.csv" if not text.startswith("{") else "t.jsonl"
    write(folder, {"film.mp4": FILM, **{f"{k}.mp4": v for k, v in media.items()}, name: text})
    return folder / name


def test_each_row_with_start_and_end_is_a_clip_of_its_own(tmp_path):
    """The frames shown in [start, end) of each row, neither more nor less; rows may overlap and repeat a caption."""
    rows = (
        "path,text,start,end\nfilm.mp4,door,0.0,4.0\nfilm.mp4,dog,4.0,9.5\nfilm.mp4,dog,3.95,4.25\nfilm.mp4,end,9.2,\n"
    )
    report, index = packed(table(tmp_path / "src", rows), tmp_path / "out", num_frames=3, fps=None, frame_stride=1)
    assert report.rejected == ()
    expected = [range(0, 40), range(40, 95), range(40, 43), range(92, 100)]
    assert [numbers(sample) for sample in index] == [list(frames) for frames in expected]
    assert [sample.duration for sample in index] == pytest.approx([4.0, 5.5, 0.3, 0.8])
    assert [sample.caption for sample in index] == ["door", "dog", "dog", "end"]
    assert [sample.key for sample in index] == [f"{number:09d}-film" for number in range(4)]
    with_notes = (tmp_path / "out" / "packed.jsonl").read_text()
    assert '"film.mp4 [3.95 - 4.25 s]"' in with_notes


def test_parts_by_frames_and_of_a_film_of_uneven_times(tmp_path):
    times = np.cumsum([0, *([0.05, 0.2] * 20)])[:40]
    rows = '{"file": "uneven.mp4", "prompt": "a", "start": 0.25, "end": 1.0}\n'
    rows += '{"FileName ": "film.mp4", "Description": "b", "start_frame": 7, "end_frame": 20}\n'
    src = table(tmp_path / "src", rows, uneven=film(40, times=times))
    _, index = packed(src, tmp_path / "out", num_frames=3, fps=None, frame_stride=1)
    shown = [k for k in range(40) if 0.25 - 1e-6 <= times[k] < 1.0 - 1e-6]
    assert [numbers(sample) for sample in index] == [shown, list(range(7, 20))]
    cut = frame_times(read_member(index[0]))
    np.testing.assert_allclose(cut, times[shown] - times[shown[0]], atol=1e-3)


@pytest.mark.parametrize(
    "start, end, detail",
    (
        ("9.0", "12.0", "it ends at 12 s, the film has 10 s"),
        ("11", "12", "it starts at 11 s, the film has 10 s"),
        ("4", "4", "starts at 4 and ends at 4"),
        ("5", "4", "starts at 5 and ends at 4"),
        ("-1", "4", "start is '-1': wanted seconds from 0"),
        ("nan", "4", "start is 'nan'"),
        ("0", "inf", "end is 'inf'"),
        ("0:10", "0:20", "start is '0:10': wanted seconds from 0, as 4.5"),
        ("0.01", "0.09", "no frame is shown in 0.01 - 0.09 s"),
    ),
)
def test_parts_that_are_none_are_named(tmp_path, start, end, detail):
    rows = f"path,text,start,end\nfilm.mp4,good,0,2\nfilm.mp4,bad,{start},{end}\n"
    report, index = packed(table(tmp_path / "src", rows), tmp_path / "out", num_frames=3, fps=None, frame_stride=1)
    assert captions(index) == ["good"]
    ((name, reason, found),) = [(r.name, r.reason, r.detail) for r in report.rejected]
    assert name.startswith("film.mp4")
    assert reason in ("unusable row", "unusable segment")
    assert detail in found


def test_an_image_has_no_parts(tmp_path):
    src = table(tmp_path / "src", "path,text,start,end\na.png,x,0,1\nfilm.mp4,good,0,2\n")
    write(tmp_path / "src", {"a.png": image()})
    report, _ = packed(src, tmp_path / "out", num_frames=3, fps=8)
    assert [(r.reason, r.detail) for r in report.rejected] == [("unusable segment", "an image has no parts")]


@pytest.mark.parametrize(
    "column",
    (
        *("start_time", "clip", "Speed", "crop", "timestamp", "start_s", "starttime", "begin_time", "t_start", "from"),
        *("start time", "start_ms", "clip_start", "begin_frame", "t_end", "end ms", "endtime", "out", "in_point", "to"),
        *("segments", "first_frame", "frame range", "rotation", "negative prompt", "num_repeats", "sampling_weight"),
    ),
)
def test_columns_that_change_a_sample_are_refused_by_name(tmp_path, column):
    src = table(tmp_path / "src", f"path,text,{column}\nfilm.mp4,x,1\n")
    with pytest.raises(DataError, match=f"line 2: the column '{column.lower()}' is not read.*start | end"):
        packed(src, tmp_path / "out")


def test_columns_that_only_sound_alike_are_read_over(tmp_path):
    harmless = (
        "gender",
        "trend",
        "weighted_score",
        "clip_id",
        "clip_score",
        "duration",
        "num_frames",
        "tone",
        "stopwords",
    )
    src = table(tmp_path / "src", f"path,text,{','.join(harmless)}\nfilm.mp4,x{',1' * len(harmless)}\n")
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["x"] and report.passed == {f"column not read: {name}": 1 for name in harmless}


@pytest.mark.parametrize(
    "name, text",
    (
        ("t.csv", "path,text,Text\nfilm.mp4,x,y\n"),
        ("t.csv", "path,text,text\nfilm.mp4,x,y\n"),
        ("t.jsonl", '{"path": "film.mp4", "text": "x", "text": "y"}'),
        ("t.jsonl", '{"path": "film.mp4", "text": "x", " TEXT": "y"}'),
    ),
)
def test_a_name_that_stands_twice_is_refused_for_one_would_be_lost(tmp_path, name, text):
    write(tmp_path, {name: text, "film.mp4": FILM})
    with pytest.raises(DataError, match=rf"{name}, line [012]: .*'text' stands there twice"):
        packed(tmp_path / name, tmp_path / "out")


def test_names_that_no_file_can_have_are_rejected_by_line(tmp_path):
    rows = [
        {"path": path, "text": "x"} for path in ("a\0.mp4", "b" * 5000 + ".mp4", "\udc80.mp4", "\ud800.mp4", "film.mp4")
    ]
    write(tmp_path, {"t.jsonl": "\n".join(map(json.dumps, rows)), "film.mp4": FILM})
    report, index = packed(tmp_path / "t.jsonl", tmp_path / "out")
    assert captions(index) == ["x"]
    assert [r.reason for r in report.rejected] == ["missing file"] * 4
    assert sorted(r.name[:8] for r in report.rejected) == ["\\ud800.m", "\\udc80.m", "a\\0.mp4", "bbbbbbbb"]
    assert (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8").count("\n") == 4


def test_brackets_without_end_are_no_row(tmp_path):
    write(tmp_path, {"t.jsonl": "[" * 100_000})
    with pytest.raises(DataError, match=r"t\.jsonl, line 1: cannot be read as jsonl"):
        packed(tmp_path / "t.jsonl", tmp_path / "out")


def test_columns_that_are_not_read_are_counted(tmp_path):
    rows = [{"path": "film.mp4", "text": "x", "caption": "y", "score": 5, "fps": 10}, {"path": "b.mp4", "text": "z"}]
    src = table(tmp_path / "src", "\n".join(map(json.dumps, rows)), b=film(30))
    report, _ = packed(src, tmp_path / "out")
    assert report.passed == {"column not read: caption": 1, "column not read: score": 1}


def test_a_rate_that_is_not_the_files_is_told(tmp_path):
    src = table(
        tmp_path / "src", "path,text,fps\nfilm.mp4,good,10.2\nb.mp4,bad,25\nc.mp4,none,often\n", b=film(30), c=FILM
    )
    report, index = packed(src, tmp_path / "out")
    assert captions(index) == ["good"]
    assert [(r.reason, r.detail) for r in report.rejected] == [
        ("another rate than listed", "the table says 25 frames per second, the file has 10"),
        ("unusable row", "t.csv, line 4: fps is 'often': wanted frames per second"),
    ]
