"""What of a benchmark is done, by the same code on the same GPU, so that it can be run in pieces.

The log lies beside the file of results. A task that was begun and not done was cut off, with its process or machine: it
gets a second try, and no third.
"""

import hashlib
import json
import time
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton

SUFFIX = ".jsonl"
PROJECT = Path(__file__).parents[2]
SOURCES = ("kernels/**/*.py", "ops/**/*.py", "models/**/*.py", "bench/*.py")
"""What times depend on, in the package."""
TRIES = 2
LEAST_ROOM = 60.0
"""Seconds that must be left for a task to begin, or as long as the longest so far took."""


def code() -> str:
    """Return a hash of the code that is timed, of its libraries, and of the GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "host"
    digest = hashlib.sha256(f"{gpu} {torch.__version__} {triton.__version__}".encode())
    for path in sorted({path for pattern in SOURCES for path in PROJECT.glob(pattern)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Log:
    """The tasks of a benchmark, of which some are done."""

    def __init__(self, results: Path, until: float) -> None:
        """Open the log beside a file of results.

        Args:
            results: results.csv.
            until: seconds since 1970 at which the piece ends.
        """
        self.path, self.until = results.with_suffix(SUFFIX), until
        self._since = time.time()

    @cached_property
    def _code(self) -> str:
        return code()

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of this code; one that was cut off in the middle is none."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return [line for line in found if line["code"] == self._code]

    def wants(self, task: str) -> bool:
        """Return whether a task is neither done nor was cut off twice."""
        return not self.is_done(task) and task not in self.given_up()

    def is_done(self, task: str) -> bool:
        """Return whether a task is done, well or not."""
        return any(line["task"] == task and "failed" in line for line in self.lines())

    def given_up(self) -> list[str]:
        """Return the tasks that were cut off as often as they may be."""
        lines = self.lines()
        done = {line["task"] for line in lines if "failed" in line}
        begun = Counter(line["task"] for line in lines if "failed" not in line)
        return [task for task, count in begun.items() if task not in done and count >= TRIES]

    def has_room(self, least: float = LEAST_ROOM) -> bool:
        """Return whether a task may begin, that takes `least` seconds or as long as the longest so far."""
        longest = max((line.get("seconds", 0.0) for line in self.lines()), default=0.0)
        return self.until - time.time() >= max(least, longest)

    def seconds(self) -> float:
        """Return how long all tasks that are done took, the starts of their processes included."""
        return sum(line.get("seconds", 0.0) for line in self.lines())

    def failed(self) -> list[str]:
        """Return what failed in tasks that are done."""
        return [name for line in self.lines() for name in line.get("failed", ())]

    def start_clock(self) -> None:
        """Let the seconds of the next task count from here, not from the last one or the start."""
        self._since = time.time()

    def begin(self, task: str) -> None:
        """Write down that a task begins."""
        self._write({"task": task})

    def done(self, task: str, failed: list[str]) -> None:
        """Write down that a task is done, and what in it failed."""
        now = time.time()
        self._write({"task": task, "failed": failed, "seconds": round(now - self._since, 1)})
        self._since = now

    def _write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"code": self._code, **line}) + "\n")
