"""What became of a run's time: the share that trained it (ETTR), and what took the rest.

`events.jsonl` in output_dir has a line for each start and each checkpoint of a run. Together with metrics.jsonl it
tells at every end of the run, and in the record of every step as `ettr`:

1. Productive is the time of steps that count, without the wait for data. A step that was left out, or that was done
   again because a run was cut off before it was saved, does not count. Of a step that warmed up (it has no rates), no
   more counts than the next step without took: the rest compiled kernels and filled queues.
2. The rest is waiting for data, checkpoints, validation, starting, and the time between two starts.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..distributed import log
from .faults import LEFT_OUT, OVERFLOW
from .journal import DROPPED, append, is_warm_up, read_records
from .progress import duration

EVENTS = "events.jsonl"
"""One JSON object a line: `event` is start, facts (what the run is made from, as lavie.training.origin tells it), save
(a checkpoint was begun), or dropped (it was not saved)."""


class Account:
    """The account of a run's time, kept by rank 0.

    Attributes:
        began: when the run was started first, in seconds since 1970.
        productive: seconds of steps that count, so far.
    """

    def __init__(self, output_dir: str | Path, start: int, records: Sequence[dict[str, Any]]) -> None:
        """Open the account of a run that goes on after `start` steps.

        Args:
            output_dir: the run's folder.
            start: how many of its steps are done.
            records: those of metrics.jsonl, with the steps after `start`, which are done again.
        """
        self._run = Path(output_dir)
        self._events = self._run / EVENTS
        if not start:
            with suppress(OSError):  # something else of this name
                self._events.unlink(missing_ok=True)
        lost = [record for record in _of_steps(records) if record["step"] > start]
        event = {"event": "start", "step": start, "lost_steps": len(lost), "lost_s": _seconds(lost)}
        append(self._events, event | {"time": time.time()})
        starts = [event["time"] for event in self._read() if _are_numbers(event, "time")]
        self.began = min(starts, default=time.time())  # a full disk may have taken no line
        self.productive, self._warm_up = 0.0, list[float]()
        for record in records:
            if record["step"] <= start:
                self._count(record)

    def step(self, record: dict[str, Any]) -> float:
        """Count the record of a step, and return the productive share of the run's time so far, 0 .. 1."""
        self._count(record)
        return round(self.productive / self._wall(), 4)

    def _count(self, record: dict[str, Any]) -> None:
        """Count a record. A step that warmed up counts in full until a step shows how long one takes."""
        seconds = _productive(record)
        self.productive += seconds
        if not seconds:
            return
        if is_warm_up(record):
            self._warm_up.append(seconds)
            return
        self.productive -= sum(max(0.0, warm - seconds) for warm in self._warm_up)
        self._warm_up = []

    def _wall(self) -> float:
        """Return the seconds since the first start; at least the productive ones, as clocks may be set back."""
        return max(time.time() - self.began, self.productive, 1e-9)

    def _read(self) -> list[dict[str, Any]]:
        """Return the events; none where they cannot be read."""
        try:
            return read_records(self._events)
        except OSError as error:
            log.warning(f"{self._events} cannot be read: {error.strerror}")
            return []

    def lines(self, metrics: Path) -> list[str]:
        """Return what is told at an end of the run."""
        events, steps = self._read(), _of_steps(read_records(metrics))
        starts = [e for e in events if e.get("event") == "start" and _are_numbers(e, "lost_steps", "lost_s")]
        saves = [e for e in events if e.get("event") == "save" and _are_numbers(e, "stall_s")]
        dropped = [e for e in events if e.get("event") == "dropped"]

        # A step that was dropped may have been saved later.
        last = {e["step"]: e["event"] for e in events if e.get("event") in ("save", "dropped")}
        saved = [step for step, event in last.items() if event == "save"]
        lost, lost_s = sum(event["lost_steps"] for event in starts), sum(event["lost_s"] for event in starts)
        wall, skipped = self._wall(), steps[-1].get("skipped", 0) if steps else 0
        waited, stall = sum(record["data_wait_s"] for record in steps), sum(event["stall_s"] for event in saves)
        told = [
            f"{self.productive / wall:.1%} of {duration(wall)} trained the run (ETTR); waiting for data took "
            f"{duration(waited)}, checkpoints {duration(stall)}",
            f"{len(starts)} starts, {lost} steps done again ({duration(lost_s)}); {skipped} steps left out; "
            f"{len(saved)} checkpoints saved, {len(dropped)} dropped",
        ]
        causes = causes_of(self._run)
        if causes:
            of = ", ".join(f"{cause} {count}" for cause, count in causes.most_common(5))
            told.append(f"{causes.total()} samples replaced: {of}")
        return told


def causes_of(run: Path) -> Counter[str]:
    """Return how many samples of a run were replaced for each reason, without what the reason says of the one sample.

    A reason may begin with the place of the sample: "train/00000.tar: cannot be decoded (...)".
    """
    files = sorted(run.glob(DROPPED.format("*")))
    reasons = [record.get("reason", "unknown") for path in files for record in read_records(path)]
    return Counter(_cause(str(reason)) for reason in reasons)


def _productive(record: dict[str, Any]) -> float:
    """Return the seconds of a record, without the wait for data; 0 unless it is of a step that moved the weights."""
    if not _of_steps([record]) or record.get("fault") in (*LEFT_OUT, OVERFLOW):
        return 0.0
    return record["seconds"] - record["data_wait_s"]


def _cause(reason: str) -> str:
    """Return the first part of a reason that is no path, without what it says of the one sample."""
    parts = reason.split(": ")
    told = next((part for part in parts if "/" not in part), parts[-1])
    return re.split(r"\.(?:\s|$)|\(", told)[0].strip() or "unknown"


def _of_steps(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of training steps; those that somebody has made by hand may lack what a step is counted by."""
    return [record for record in records if "loss" in record and _are_numbers(record, "seconds", "data_wait_s")]


def _are_numbers(record: dict[str, Any], *names: str) -> bool:
    """Return whether a record has numbers under all of these names."""
    return all(isinstance(record.get(name), (int, float)) for name in names)


def _seconds(records: list[dict[str, Any]]) -> float:
    """Return how long the steps of some records took."""
    return round(sum(record["seconds"] for record in records), 3)
