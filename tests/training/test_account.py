"""The account of a run's time, against sums done by hand; and records that a full disk does not take."""

import errno
import json

import pytest

from lavie.training import account
from lavie.training.account import EVENTS, Account
from lavie.training.faults import SKIPPED_SPIKE
from lavie.training.journal import append, read_records
from lavie.training.metrics import Metrics
from tests.training.runs import NO_DATA, make_config


def record(step, seconds=2.0, wait=0.5, **changes):
    """Return the record of a step."""
    values = {"step": step, "loss": 1.0, "grad_norm": 1.0, "seconds": seconds, "data_wait_s": wait, "skipped": 0}
    return values | changes


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(account.time, "time", lambda: now[0])
    return now


def test_what_is_done_again_or_left_out_trained_nothing(tmp_path, clock):
    metrics = tmp_path / "metrics.jsonl"
    first = Account(tmp_path, 0, [])
    for step in range(1, 6):
        clock[0] += 2
        append(metrics, record(step))
        share = first.step(record(step))
    assert share == 0.75  # 1.5 of 2 s

    # Cut off after step 5, and resumed from step 3 ten seconds later; step 5 is then left out.
    clock[0] += 10
    append(tmp_path / EVENTS, {"event": "save", "step": 3, "stall_s": 0})
    again = Account(tmp_path, 3, read_records(metrics))
    metrics.write_text("".join(json.dumps(record(step)) + "\n" for step in (1, 2, 3)))
    for step, changes in ((4, {}), (5, {"fault": SKIPPED_SPIKE, "skipped": 1})):
        clock[0] += 2
        append(metrics, record(step, **changes))
        share = again.step(record(step, **changes))
    assert share == pytest.approx(4 * 1.5 / 24)
    for event in ({"event": "save", "step": 3, "stall_s": 4}, {"event": "save", "step": 5, "stall_s": 1}):
        append(tmp_path / EVENTS, event)
    append(tmp_path / EVENTS, {"event": "dropped", "step": 5, "reason": "full"})
    for reason in ("broken: moov atom", "broken: NAL", "too short. 3 frames"):
        append(tmp_path / "dropped-rank0.jsonl", {"step": 4, "key": "a", "reason": reason})
    assert again.lines(metrics) == [
        "25.0% of 24 s trained the run (ETTR); waiting for data took 2 s, checkpoints 5 s",
        "2 starts, 2 steps done again (4 s); 1 steps left out; 1 checkpoints saved, 1 dropped",
        "3 samples replaced: broken 2, too short 1",
    ]


def test_a_step_that_warms_up_trains_for_no_longer_than_the_next_one_without(tmp_path, clock):
    """1.5 s each are trained of steps of 100 and 10 s, and all of one that is faster; also over a resume in between."""
    warm = {"samples_per_s": None}
    made = [record(1, 100.0, **warm), record(2, 10.0, **warm), record(3), record(4, 1.0, **warm), record(5)]
    expected = (99.5 / 100, 109.0 / 110, 4.5 / 112, 5.0 / 113, 6.5 / 115)
    run = Account(tmp_path, 0, [])
    for line, share in zip(made, expected, strict=True):
        clock[0] += line["seconds"]
        assert run.step(line) == round(share, 4)
    assert Account(tmp_path, 5, made).productive == pytest.approx(6.5)
    assert Account(tmp_path, 2, made).productive == pytest.approx(109.0)  # nothing says yet how long a step takes
    left_out = record(3, fault=SKIPPED_SPIKE)
    assert Account(tmp_path, 5, [*made[:2], left_out, record(4), record(5)]).productive == pytest.approx(6.0)


def test_lines_that_somebody_made_by_hand_count_nothing_and_stop_nothing(tmp_path, clock):
    metrics = tmp_path / "metrics.jsonl"
    for odd in ({"loss": 0.5}, {"loss": 0.5, "seconds": "two", "data_wait_s": None}, {"note": "lunch"}):
        append(metrics, {"step": 1, **odd})
    for odd in ({}, {"event": "start"}, {"event": "start", "time": "noon"}, {"event": "save"}, {"event": "dropped"}):
        append(tmp_path / EVENTS, {"step": 1, **odd})
    account_of_run = Account(tmp_path, 2, read_records(metrics))
    clock[0] -= 500  # a clock that is set back
    assert account_of_run.step(record(3)) == 1.0
    assert account_of_run.lines(metrics)[0].startswith("100.0% of 2 s trained")


def test_a_step_that_is_saved_after_it_was_dropped_is_saved(tmp_path, clock):
    made = Account(tmp_path, 0, [])
    for kind in ("save", "dropped", "save"):
        append(tmp_path / EVENTS, {"event": kind, "step": 4, "stall_s": 0})
    append(tmp_path / "dropped-rank0.jsonl", {"step": 4, "reason": "/set/train/00000.tar: cannot be decoded (moov)"})
    (tmp_path / "metrics.jsonl").touch()
    told = made.lines(tmp_path / "metrics.jsonl")
    assert told[1].endswith("1 checkpoints saved, 1 dropped")
    assert told[2] == "1 samples replaced: cannot be decoded 1"


def test_events_that_cannot_be_read_stop_nothing(tmp_path, clock):
    (tmp_path / EVENTS).mkdir()
    (tmp_path / "metrics.jsonl").touch()
    assert Account(tmp_path, 0, []).lines(tmp_path / "metrics.jsonl")


def test_a_run_from_step_0_opens_a_new_account(tmp_path, clock):
    Account(tmp_path, 0, [])
    clock[0] += 100
    assert Account(tmp_path, 0, []).began == 1100


class FullDisk:
    """A file whose disk is full until it is told otherwise; what it does not take, it keeps, as Python's files do."""

    def __init__(self, file):
        self.file, self.full, self.kept = file, True, ""

    def write(self, text):
        self.kept += text

    def flush(self):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(self.kept)
        self.file.flush()
        self.kept = ""

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def test_records_wait_for_room_on_a_full_disk(rendered, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    metrics = Metrics(make_config(rendered, tmp_path / "run", report_to=()), 0, NO_DATA)
    disk = metrics._file = FullDisk(metrics._file)
    shown = {"loss_video": 1.0, "loss_image": 1.0, "lr": 1.0, "samples_per_s": 1.0, "dropped": 0, "time": "now"}
    for step in (1, 2):
        metrics.log(record(step, **shown))
    assert [r.getMessage() for r in caplog.records if "cannot be written" in r.getMessage()] == [
        f"{metrics.path} cannot be written (No space left on device): records wait in memory for room"
    ]
    assert metrics.path.read_text() == ""
    disk.full = False
    metrics.log(record(3, **shown))
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [1, 2, 3]
    metrics.close()
