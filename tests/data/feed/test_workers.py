"""Decoding processes that are killed, stopped or stuck: named, replaced, and the rows come all the same."""

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lavie.data.decoders.clip import DecodedClip, EncodedClip
from lavie.data.feed import workers
from lavie.data.feed.batches import Batches
from lavie.data.feed.loader import build_loader
from lavie.data.feed.rows import ClipRows, address
from lavie.data.feed.share import Share
from lavie.data.feed.workers import Workers
from lavie.data.order.datasets import load_datasets
from lavie.errors import DataError
from tests.data.datasets import write_lone
from tests.data.feed.loading import assert_same, processes, rows_of, small
from tests.data.feed.strange_rows import DeadlyRows, FaultyRows, GivenRows

config = partial(small, num_workers=2)


def loader(data):
    return build_loader(data, data.train, Share(seed=0, train_batch_size=2))


def rows(batches, count):
    """Return the rows of the next `count` batches."""
    return rows_of(itertools.islice(batches, count))


def gone(pid):
    """Return whether a process has ended, be it that nobody has waited for it yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=20):
    """Wait for a condition, which must hold after at most so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kill", (signal.SIGKILL, signal.SIGSTOP))
def test_killed_and_stopped_processes_change_nothing(demo, caplog, kill):
    expected = rows(loader(config(demo / "train", num_workers=0)), 16)
    others = multiprocessing.active_children()
    batches = loader(config(demo / "train", timeout=2))
    found = rows(batches, 3)
    with caplog.at_level(logging.ERROR, "lavie"):
        for _ in range(2):
            os.kill(processes(others)[0].pid, kill)
            found += rows(batches, 4)
        found += rows(batches, 5)
    batches.close()
    assert_same(expected, found)
    what = "died (signal SIGKILL)" if kill == signal.SIGKILL else "hung for 2 s (data.timeout)"
    assert 1 <= len(caplog.records) <= 2
    lines = [record.getMessage() for record in caplog.records]
    assert all(f"a worker {what} at position " in line and ", reading " in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("kill", (False, True))
def test_a_sample_that_stops_its_process_twice_is_dropped_for_a_spare(demo, tmp_path, caplog, kill):
    folders = demo / "train", write_lone(tmp_path / "lone")
    data = config(*folders, num_workers=1, timeout=60 if kill else 1)
    made = ClipRows(load_datasets(data, data.train), data, 0)
    (lone,) = (s for s in load_datasets(data, data.train)[0].index.videos if s.key.endswith("lone"))
    (tmp_path / "lone/00000.tar").rename(tmp_path / "away")
    expected = rows(Batches(map(made.row, itertools.count()), 1), 40)
    os.mkfifo(tmp_path / "lone/00000.tar")  # reading it never returns
    if kill:
        made = DeadlyRows(made, address(lone))
    decoders = Workers(made, itertools.count(), 1, ahead=4, timeout=data.timeout)
    with caplog.at_level(logging.ERROR, "lavie"):
        found = list(itertools.islice(Batches(decoders, 1), 40))
    decoders.close()
    assert_same(expected, rows_of(found))
    dropped = [d for batch in found for d in batch["dropped"]]
    why = "died (signal SIGKILL)" if kill else "hung for 1 s (data.timeout)"
    assert dropped
    assert len(caplog.records) == 2 * len(dropped)
    assert all(d["key"] == lone.key for d in dropped)
    assert all(d["reason"] == f"{address(lone)}: a worker that read it {why}, 2 times" for d in dropped)
    assert f"at position {dropped[0]['position']}, reading {address(lone)}: it is replaced" in caplog.text


@pytest.mark.slow
def test_a_process_that_is_stopped_while_it_starts_is_noticed_as_soon_as_others_have_started(demo, monkeypatch, caplog):
    start, started = Workers._start, []

    def start_and_stop(self):
        started.append(start(self))
        if len(started) == 2:
            os.kill(started[1].process.pid, signal.SIGSTOP)
        return started[-1]

    monkeypatch.setattr(Workers, "_start", start_and_stop)
    monkeypatch.setattr(workers, "AGAIN_SECONDS", 8.0)
    expected = rows(loader(config(demo / "train", num_workers=0)), 6)
    begin = time.monotonic()
    batches = loader(config(demo / "train", timeout=8))  # more than a busy machine needs for any sample
    with caplog.at_level(logging.ERROR, "lavie"):
        assert_same(expected, rows(batches, 6))
    batches.close()
    assert 8 <= time.monotonic() - begin < 60
    (line,) = (record.getMessage() for record in caplog.records)
    assert "a worker hung for 8 s while it started at position 1, reading no sample yet: it is replaced" in line


def test_processes_that_cannot_start_stop_the_run(demo, monkeypatch):
    start = Workers._start

    def start_and_kill(self):
        worker = start(self)
        worker.process.kill()
        return worker

    monkeypatch.setattr(Workers, "_start", start_and_kill)
    batches = loader(config(demo / "train", num_workers=1))
    with pytest.raises(DataError, match=r"position 0: workers died .* before they read a sample, 2 times.*num_workers"):
        next(batches)


def test_a_fault_of_the_program_is_shown_with_its_place():
    decoders = Workers(FaultyRows(), iter([7]), 1, ahead=1, timeout=60)
    with pytest.raises(RuntimeError, match=r"(?s)at position 7:.*Traceback.*AttributeError"):
        next(decoders)


def test_rows_come_as_they_were_made():
    """Tensors of any dtype and number, and clips with and without a file, in slots that are used again."""
    key = {"captions": ["c"], "keys": ["k"], "dropped": []}
    pixels = torch.arange(48, dtype=torch.uint8).view(2, 2, 4, 3)
    half = torch.arange(12).view(1, 1, 3, 4).half()
    given = [
        {"position": 0, "pixels": pixels, "low_res": pixels[:1, :1, :1], **key},
        {"position": 1, "mean": half, "std": -half, "text": half[0], **key},
        {"position": 2, "pixels": pixels[:0], "clip": DecodedClip("k", "why"), **key},
    ]
    for size in (1, 7, 100):
        clip = EncodedClip("k", bytes(range(size)), np.array([4, 9]), 6, 8, bt709=True, u=0.25, v=0.5)
        given.append({"position": len(given), "pixels": pixels[1:], "clip": clip, **key})
    decoders = Workers(GivenRows(given, 152), iter([0, 1, 2, 3, 4, 5, 1]), 1, ahead=2, timeout=60)
    found = 0
    for row in decoders:
        expected = given[row["position"]]
        assert row.keys() == expected.keys()
        for name, value in row.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == expected[name].dtype
                assert torch.equal(value, expected[name])
            elif isinstance(value, EncodedClip):
                assert value.indices.tolist() == [4, 9]
                assert value.data == expected[name].data
                assert (value.key, value.height, value.width, value.bt709) == ("k", 6, 8, True)
                assert (value.u, value.v) == (0.25, 0.5)
            else:
                assert value == expected[name]
        found += 1
    assert found == 7
    decoders.close()


def test_rows_in_flight_are_bounded(demo):
    asked = []

    def positions():
        for p in itertools.count():
            asked.append(p)
            yield p

    data = config(demo / "train")
    decoders = Workers(ClipRows(load_datasets(data, data.train), data, 0), positions(), 2, ahead=3, timeout=60)
    for number in range(8):
        assert next(decoders)["position"] == number
        assert len(asked) <= number + 6
    decoders.close()


def test_no_process_outlives_the_iterator(demo):
    others = multiprocessing.active_children()
    batches = loader(config(demo / "train"))
    next(batches)
    first = [p.pid for p in processes(others)]
    batches.close()
    assert len(first) == 2
    assert all(map(gone, first))
    batches = loader(config(demo / "train"))
    second = [p.pid for p in processes(others)]
    del batches
    assert len(second) == 2
    assert all(map(gone, second))


SCRIPT = """
import sys
from pathlib import Path
from lavie.data.feed.workers import Workers
from tests.data.feed.strange_rows import StuckRows

if __name__ == "__main__":
    next(Workers(StuckRows(Path(sys.argv[1])), iter(range(9)), 2, ahead=2, timeout=600))
"""


@pytest.mark.slow
def test_stuck_processes_end_with_a_parent_that_is_killed(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "processes"
    script.write_text(SCRIPT)
    folder.mkdir()
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = subprocess.Popen([sys.executable, script, folder], env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: len(list(folder.iterdir())) == 2, 60)
    pids = [int(file.name) for file in folder.iterdir()]
    assert not any(map(gone, pids))
    parent.kill()
    parent.wait()
    wait_until(lambda: all(map(gone, pids)))
