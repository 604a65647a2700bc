"""The counts of what was tried and what became of it, as a table and as JSON."""

import json
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

import lavie

TABLE = "docs/reliability.json"


class Row(NamedTuple):
    """Trials of one kind with one result."""

    part: str
    subject: str
    """ours or stock."""
    trial: str
    result: str
    good: bool


class Report:
    """Counts rows as they come, and writes the counts down after each part."""

    def __init__(self, out: Path | None, options: dict[str, Any]) -> None:
        """Begin.

        Args:
            out: the JSON file; None for none.
            options: what was asked for.
        """
        self._out, self._options, self._counts = out, options, Counter[Row]()
        self._seconds: dict[str, float] = {}

    def add(self, *row: Any) -> None:
        """Count one trial; arguments as the fields of Row. A bad one of ours is told at once."""
        self._counts[Row(*row)] += 1

    def took(self, part: str, seconds: float) -> None:
        """Note how long a part took, and write down what is known so far."""
        self._seconds[part] = round(seconds, 1)
        if self._out:
            self._out.write_text(json.dumps(self.content(), indent=1) + "\n")

    def content(self) -> dict[str, Any]:
        """Return the counts with date and versions."""
        import deepspeed

        rows = [{**row._asdict(), "count": count} for row, count in sorted(self._counts.items())]
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "versions": {
                "lavie": lavie.__version__,
                "torch": torch.__version__,
                "deepspeed": deepspeed.__version__,
                "python": platform.python_version(),
                "linux": platform.release(),
            },
            "options": self._options,
            "seconds": self._seconds,
            "rows": rows,
        }

    def bad(self, subject: str = "ours") -> list[Row]:
        """Return the rows of a subject that are failures."""
        return [row for row in self._counts if row.subject == subject and not row.good]

    def print(self) -> None:
        """Print the table: of each kind of trial how many there were and how many were good, ours and stock."""
        print_table(self.content())


def print_table(content: dict[str, Any], file: Any = sys.stdout) -> None:
    """Print the counts of a report as a table of Markdown."""
    print("| part | trial | ours: good of tried | DeepSpeed's own: good of tried | what became of the others |", file=file)
    print("|---|---|---|---|---|", file=file)
    kinds = dict.fromkeys((row["part"], row["trial"]) for row in content["rows"])
    for part, trial in kinds:
        cells, others = [], []
        for subject in ("ours", "stock"):
            rows = [r for r in content["rows"] if (r["part"], r["trial"], r["subject"]) == (part, trial, subject)]
            total, good = sum(r["count"] for r in rows), sum(r["count"] for r in rows if r["good"])
            cells.append(f"{good} of {total}" if total else "-")
            whose = "ours: " if subject == "ours" else ""
            others += [f"{whose}{r['count']} {r['result']}" for r in rows if not r["good"]]
        print(f"| {part} | {trial} | {cells[0]} | {cells[1]} | {', '.join(others)} |", file=file)
