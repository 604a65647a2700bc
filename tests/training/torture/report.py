"""The counts of what was tried and what became of it, as a table and as JSON."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

import lavie


class Row(NamedTuple):
    """Trials of one kind with one result."""

    part: str
    subject: str
    """ours or stock."""
    trial: str
    result: str
    good: bool


class Report:
    """Counts trials as they come, and writes the counts down after each part."""

    def __init__(self, out: Path | None, parts: Sequence[str], subjects: Sequence[str]) -> None:
        """Begin, with what the JSON file has of other parts and subjects.

        Args:
            out: the file; None for none.
            parts: what is tried now.
            subjects: on whom.
        """
        self._out, self._counts, self._parts = out, Counter[Row](), dict[str, Any]()
        if out and out.exists():
            before = json.loads(out.read_text())
            self._parts = before["parts"]
            for row in before["rows"]:
                count = row.pop("count")
                if row["part"] not in parts or row["subject"] not in subjects:
                    self._counts[Row(**row)] = count

    def add(self, *row: Any) -> None:
        """Count one trial; arguments as the fields of Row."""
        self._counts[Row(*row)] += 1

    def end(self, part: str, options: str, seconds: float) -> None:
        """Note what was asked of a part, and when and how long it was tried; write down what is known so far."""
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        self._parts[part] = {"date": today, "asked": options, "seconds": round(seconds), "versions": versions()}
        if self._out:
            self._out.write_text(json.dumps(self.content(), indent=1) + "\n")

    def content(self) -> dict[str, Any]:
        """Return the counts, and of each part its date and versions."""
        rows = [{**row._asdict(), "count": count} for row, count in sorted(self._counts.items())]
        return {"parts": self._parts, "rows": rows}

    def bad(self, subject: str = "ours") -> list[Row]:
        """Return the rows of a subject that are failures."""
        return [row for row in self._counts if row.subject == subject and not row.good]


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    import deepspeed

    return {
        "lavie": lavie.__version__,
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
        "python": platform.python_version(),
        "linux": platform.release(),
    }


def print_table(content: dict[str, Any], file: Any = sys.stdout) -> None:
    """Print the counts of a report as a table of Markdown."""
    print(
        "| part | trial | ours: good of tried | DeepSpeed's own: good of tried | what became of the others |", file=file
    )
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
