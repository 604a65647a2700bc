"""A finished stage is taken again if its record is the same and its frames are there, and never otherwise."""

import numpy as np
import pytest

from lavie.inference.work import Work

FRAMES = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
RECORD = {"prompt": "a fox at Ærø", "seed": 3, "settings": {"guidance": 7.5}}


@pytest.fixture
def work(tmp_path):
    work = Work(tmp_path / "work")
    assert work.get(0, "base", RECORD) is None and work.record(0, "base") is None and work.size() == 0
    assert np.array_equal(work.put(0, "base", RECORD, FRAMES), FRAMES)
    return work


def test_frames_come_back_to_their_record_alone(work):
    assert np.array_equal(work.get(0, "base", RECORD), FRAMES)
    assert work.record(0, "base") == RECORD
    assert work.get(0, "base", RECORD | {"seed": 4}) is None
    assert work.get(0, "base", {"prompt": RECORD["prompt"]}) is None
    assert work.get(1, "base", RECORD) is None and work.get(0, "vsr", RECORD) is None


def test_frames_without_a_record_or_a_record_without_frames_are_nothing(work):
    [record], [frames] = (list(work.folder.glob(f"*{end}")) for end in (".json", ".npy"))
    text, data = record.read_bytes(), frames.read_bytes()
    for file, content in ((record, text), (frames, data)):
        file.unlink()
        assert work.get(0, "base", RECORD) is None
        file.write_bytes(content)
        assert np.array_equal(work.get(0, "base", RECORD), FRAMES)
    record.write_bytes(text[:-9])
    assert work.get(0, "base", RECORD) is None and work.record(0, "base") is None


def test_new_frames_replace_the_old_and_records_outlive_dropped_frames(work):
    work.put(0, "base", RECORD | {"seed": 4}, FRAMES + 1)
    assert work.get(0, "base", RECORD) is None
    assert np.array_equal(work.get(0, "base", RECORD | {"seed": 4}), FRAMES + 1)
    assert work.size() == sum(path.stat().st_size for path in work.folder.iterdir() if path.suffix == ".npy") > 24
    work.drop()
    assert work.size() == 0 and work.get(0, "base", RECORD | {"seed": 4}) is None
    assert work.record(0, "base") == RECORD | {"seed": 4}
