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


@pytest.mark.parametrize("size", (0, 1, 100, 140))
def test_damaged_frames_are_named_and_drawn_again(work, caplog, size):
    [frames] = work.folder.glob("*.npy")
    frames.write_bytes(frames.read_bytes()[:size])
    assert work.get(0, "base", RECORD) is None
    assert f"{frames.name} is damaged" in caplog.text


def test_clips_from_a_number_on_are_forgotten(work):
    work.put(1, "base", RECORD, FRAMES)
    (work.folder / "00001-mine.json").touch()
    work.forget(1)
    left = {path.name for path in work.folder.iterdir()}
    assert left == {"00000-base.json", "00000-base.npy", "00001-mine.json"}
