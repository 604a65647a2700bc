"""A run's JSON lines are read and cut back whatever became of them, and damage is told."""

import json

import pytest

from lavie.training.journal import cut_back, read_records

GOOD = [b'{"step": 0, "a": NaN}', b'{"step": 1, "b": 1e-7}', b'{"step": 2}', b'{"step": 3}']
BAD = (
    b"",
    b"\0" * 40,
    b'{"step": 2, "lo{"step": 2}',
    b'{"loss": 1.5}',
    b"\xff\xfe",
    b"[2]",
    b"2",
    b"null",
    b'{"step": true}',
    b'{"step": "2"}',
    b'{"step": -1}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_damaged_line_is_left_out_and_told(tmp_path, caplog, bad):
    path = tmp_path / "metrics.jsonl"
    before = b"".join(line + b"\n" for line in (*GOOD[:2], bad, *GOOD[2:]))
    path.write_bytes(before)
    assert [record["step"] for record in read_records(path)] == [0, 1, 2, 3]
    assert "1 damaged line left out" in caplog.text
    cut_back(path, 2)
    assert path.read_bytes() == b"".join(line + b"\n" for line in GOOD[:3])
    assert "1 damaged line taken out; metrics.jsonl.damaged is" in caplog.text
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before


@pytest.mark.parametrize("end, whole", ((b'{"step": 3, "lo', False), (b'{"step": 3}', True), (b"", True)))
def test_the_last_line_may_be_torn(tmp_path, caplog, end, whole):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2}\n' + end)
    steps = [2, 3] if end == b'{"step": 3}' else [2]
    assert [record["step"] for record in read_records(path)] == steps
    assert not caplog.text  # the run may be writing it
    cut_back(path, 3)
    assert path.read_text() == "".join(json.dumps({"step": step}) + "\n" for step in steps)
    assert ("1 damaged line" in caplog.text) != whole


def test_the_first_damaged_file_is_the_one_that_is_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    for text in ("a\n", "b\n"):
        path.write_text(text)
        cut_back(path, 1)
    assert (tmp_path / "x.jsonl.damaged").read_text() == "a\n"


def test_a_run_from_step_0_begins_its_files_anew_and_makes_none(tmp_path, caplog):
    path = tmp_path / "x.jsonl"
    cut_back(path, 0)
    assert not path.exists()
    path.write_text('{"step": 0}\nnonsense\n')
    cut_back(path, 0)
    assert path.read_text() == "" and not caplog.text
