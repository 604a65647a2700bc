"""What became of a run's time: the share that trained it (ETTR), and what took the rest.

`events.jsonl` in output_dir has a line for each start and each checkpoint of a run. Together with metrics.jsonl it tells
at every end of the run, and in the record of every step as `ettr`:

1. Productive is the time of steps that count, without the wait for data. A step that was left out, or that was done
   again because a run was cut off before it was saved, does not count.
2. The rest is waiting for data, checkpoints, validation, starting, and the time between two starts.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .journal import DROPPED, append, cut_back, read_records

EVENTS = "events.jsonl"
"""One JSON object a line: `event` is start or save."""


class Account:
    """The account of a run's time, kept by rank 0.

    Attributes:
        began: when the run was started first, in seconds since 1970.
        productive: seconds of steps that count, so far.
    """

    def __init__(self, output_dir: str | Path, start: int, metrics: Path) -> None:
        """Open the account of a run that goes on after `start` steps, before metrics.jsonl is cut back to them."""
        self._run = Path(output_dir)
        self._events = self._run / EVENTS
        if not start:
            self._events.unlink(missing_ok=True)
        records = read_records(metrics) if metrics.exists() else []
        lost = [record for record in records if "loss" in record and record["step"] > start and start]
        event = {"event": "start", "step": start, "lost_steps": len(lost), "lost_s": _seconds(lost)}
        append(self._events, event | {"time": time.time()})
        self.began = min(event["time"] for event in read_records(self._events))
        self.productive = _productive([record for record in records if record["step"] <= start])

    def step(self, record: dict[str, Any]) -> float:
        """Count the record of a step, and return the productive share of the run's time so far, 0 .. 1."""
        self.productive += _productive([record])
        return round(self.productive / max(time.time() - self.began, 1e-9), 4)

    def save(self, step: int, stall: float, failed: bool) -> None:
        """Write down that a checkpoint was begun, for which the run stood still; or that it was dropped at once."""
        append(self._events, {"event": "save", "step": step, "stall_s": round(stall, 3), "failed": failed})

    def lines(self, metrics: Path) -> list[str]:
        """Return what is told at an end of the run."""
        wall = time.time() - self.began
        events, records = read_records(self._events), read_records(metrics)
        starts = [event for event in events if event["event"] == "start"]
        saves = [event for event in events if event["event"] == "save"]
        lost = sum(event["lost_steps"] for event in starts)
        stall, dropped_saves = sum(event["stall_s"] for event in saves), sum(event["failed"] for event in saves)
        steps = [record for record in records if "loss" in record]
        skipped = steps[-1]["skipped"] if steps else 0
        waited = sum(record["data_wait_s"] for record in steps)
        told = [
            f"{self.productive / wall:.1%} of {_duration(wall)} trained the run (ETTR); waiting for data "
            f"{_duration(waited)}, checkpoints {_duration(stall)}",
            f"{len(starts) - 1} restarts, {lost} steps done again ({_duration(sum(e['lost_s'] for e in starts))}); "
            f"{skipped} steps left out; {len(saves)} checkpoints, {dropped_saves} dropped",
        ]
        causes = Counter(
            str(record.get("reason", "")).split(":")[0]
            for path in sorted(self._run.glob(DROPPED.format("*")))
            for record in read_records(path)
        )
        if causes:
            of = ", ".join(f"{cause} {count}" for cause, count in causes.most_common(5))
            told.append(f"{causes.total()} samples replaced: {of}")
        return told


def _productive(records: list[dict[str, Any]]) -> float:
    """Return the seconds of the records of steps that moved the weights, without the wait for data."""
    counted = [record for record in records if record.get("loss") is not None and record.get("grad_norm") is not None]
    return sum(record["seconds"] - record["data_wait_s"] for record in counted)


def _seconds(records: list[dict[str, Any]]) -> float:
    """Return how long the steps of some records took."""
    return round(sum(record["seconds"] for record in records), 3)


def _duration(seconds: float) -> str:
    """Return a time in words: "41 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
