"""Decoding processes that are killed, stopped or stuck: named, replaced, and the rows come all the same."""

import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lavie.config.data import DataConfig
from lavie.data.feed import workers
from lavie.data.feed.batches import Batches
from lavie.data.feed.loader import build_loader
from lavie.data.feed.rows import ClipRows, address
from lavie.data.feed.share import Share
from lavie.data.feed.workers import Workers
from lavie.data.media.encode import encode_mp4
from lavie.data.order.datasets import WeightedDataset, load_datasets
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index
from lavie.errors import DataError


def config(*folders, **changes) -> DataConfig:
    values = {"num_frames": 4, "num_images": 1, "height": 24, "width": 32, "fps": 8, "num_workers": 2}
    return DataConfig(train=tuple(map(str, folders)), **{**values, **changes})


def loader(data, batch=2):
    return build_loader(data, data.train, Share(seed=0, train_batch_size=batch))


def rows(batches, count):
    """(position, keys, pixels) of each row of `count` batches."""
    return [
        row
        for b in itertools.islice(batches, count)
        for row in zip(b["positions"].tolist(), b["keys"], b["pixels"], strict=True)
    ]


def assert_same(a, b):
    assert [row[:2] for row in a] == [row[:2] for row in b]
    assert all(torch.equal(x[2], y[2]) for x, y in zip(a, b, strict=True))


def processes(batches):
    return [worker.process for worker in batches._rows._workers]


def gone(pid):
    """Whether a process has ended (one that nobody has waited for yet has)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def one_video(folder):
    """A dataset of one video, `lone`, in a shard of its own."""
    media = encode_mp4(np.full((8, 32, 32, 3), 90, np.uint8), 8)
    pack_files([CaptionedFile("lone", "lone", lambda: media, "text")], folder, num_frames=4, fps=8)
    return folder


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_and_stopped_processes_change_nothing(demo, caplog, kill):
    expected = rows(loader(config(demo / "train", num_workers=0)), 16)
    batches = loader(config(demo / "train", timeout=2))
    found = rows(batches, 3)
    with caplog.at_level(logging.ERROR, "lavie"):
        for _ in range(2):
            os.kill(processes(batches)[0].pid, kill)
            found += rows(batches, 4)
        found += rows(batches, 5)
    batches.close()
    assert_same(expected, found)
    what = "died (signal SIGKILL)" if kill == signal.SIGKILL else "hung for 2 s (data.timeout)"
    assert 1 <= len(caplog.records) <= 2
    lines = [record.getMessage() for record in caplog.records]
    assert all(f"a worker {what} at position " in line and ", reading " in line for line in lines)


@pytest.mark.parametrize("kill", [False, True])
def test_a_sample_that_stops_its_process_twice_is_dropped_for_a_spare(demo, tmp_path, caplog, monkeypatch, kill):
    data = config(demo / "train", one_video(tmp_path / "lone"), num_workers=1, timeout=60 if kill else 1)
    pools = load_datasets(data, data.train)
    (lone,) = (s for s in pools[0].index.videos if s.key.endswith("lone"))
    (tmp_path / "lone/00000.tar").rename(tmp_path / "away")
    expected = rows(Batches(map(ClipRows(pools, data, 0).row, itertools.count()), 1), 40)
    os.mkfifo(tmp_path / "lone/00000.tar")  # reading it never returns
    if kill:
        take = Workers._take

        def take_and_kill(self, worker, message):
            take(self, worker, message)
            if message == workers._Reading(address(lone)):
                worker.process.kill()

        monkeypatch.setattr(Workers, "_take", take_and_kill)
    decoders = Workers(ClipRows(pools, data, 0), itertools.count(), 1, ahead=4, timeout=data.timeout)
    with caplog.at_level(logging.ERROR, "lavie"):
        found = list(itertools.islice(Batches(decoders, 1), 40))
    decoders.close()
    assert_same(expected, rows(found, 40))
    dropped = [d for batch in found for d in batch["dropped"]]
    why = "died (signal SIGKILL)" if kill else "hung for 1 s (data.timeout)"
    assert dropped and len(caplog.records) == 2 * len(dropped)
    assert all(d["key"] == lone.key for d in dropped)
    assert all(d["reason"] == f"{address(lone)}: a worker that read it {why}, 2 times" for d in dropped)
    assert f"at position {dropped[0]['position']}, reading {address(lone)}: it is replaced" in caplog.text


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
    batches = loader(config(demo / "train", timeout=2))
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
    with pytest.raises(DataError, match="position 0: workers died .* before they read a sample, 2 times.*num_workers"):
        next(batches)


def test_a_fault_of_the_program_is_shown_with_its_address(demo, tmp_path):
    dataset = ClipRows([WeightedDataset(load_index((str(demo / "train"),)))], config(demo / "train"), 0)
    dataset._seed = None
    dataset._videos = None
    decoders = Workers(dataset, iter([7]), 1, ahead=1, timeout=60)
    with pytest.raises(RuntimeError, match=r"(?s)at position 7:.*Traceback.*AttributeError"):
        next(decoders)


def test_rows_in_flight_are_bounded(demo):
    asked = []

    def positions():
        for p in itertools.count():
            asked.append(p)
            yield p

    dataset = ClipRows([WeightedDataset(load_index((str(demo / "train"),)))], config(demo / "train"), 0)
    decoders = Workers(dataset, positions(), 2, ahead=3, timeout=60)
    for number in range(8):
        assert next(decoders)["position"] == number
        assert len(asked) <= number + 6
    decoders.close()


def test_no_process_outlives_the_iterator(demo):
    batches = loader(config(demo / "train"))
    next(batches)
    first = [p.pid for p in processes(batches)]
    batches.close()
    assert all(map(gone, first))
    batches = loader(config(demo / "train"))
    second = [p.pid for p in processes(batches)]
    del batches
    assert all(map(gone, second))


SCRIPT = """
import os, sys, time
from lavie.config.data import DataConfig
from lavie.data.feed.rows import ClipRows
from lavie.data.order.datasets import load_datasets
from lavie.data.feed.workers import Workers

def main(folder):
    data = DataConfig(train=(folder,), num_frames=4, num_images=0, height=24, width=32, fps=8)
    dataset = ClipRows(load_datasets(data, data.train), data, 0)
    os.rename(folder + "/00000.tar", folder + "/away")
    os.mkfifo(folder + "/00000.tar")
    workers = Workers(dataset, iter(range(9)), 2, ahead=2, timeout=60)
    while not all(w.reading for w in workers._workers):
        workers._listen()
    print(*(w.process.pid for w in workers._workers), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    main(sys.argv[1])
"""


def test_stuck_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shutil.copytree(one_video(tmp_path / "lone"), tmp_path / "copy")
    parent = subprocess.Popen([sys.executable, script, tmp_path / "copy"], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and not any(map(gone, pids))
    parent.kill()
    parent.wait()
    wait_until(lambda: all(map(gone, pids)))
    parent.stdout.close()
