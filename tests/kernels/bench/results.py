"""Rows of results as a benchmark writes them, for the tests of what reads them."""

import csv
from pathlib import Path

from lavie.kernels.bench import harness
from lavie.kernels.bench.report import END, START


def row(way: str, part: str, ms: float, ratio: float | str, case: str = "level 0, B=1") -> dict[str, str]:
    """Return the row of a way that was timed: `ms` milliseconds, `ratio` times those of ours."""
    values = dict(date="2000-01-01", gpu="GPU X", torch="2", triton="3", op="group_norm_silu", case=case)
    values |= dict(dtype="bfloat16", way=way, part=part, ms=str(ms), ratio=str(ratio), share_of_copy="0.85")
    return values | dict(tflop_per_s="7.5", status="ok")


def failed_row(way: str, part: str, case: str, status: str) -> dict[str, str]:
    """Return the row of a way that failed with the message `status`."""
    return row(way, part, 0, 0, case) | dict(ms="", ratio="", share_of_copy="", tflop_per_s="", status=status)


def write_results(folder: Path, rows: list[dict[str, str]]) -> tuple[Path, Path]:
    """Write rows and a README with a place for their report, and return the paths of both files."""
    results, readme = folder / "results.csv", folder / "README.md"
    with results.open("w", newline="") as file:
        writer = csv.DictWriter(file, harness.FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    readme.write_text(f"Before\n{START}\nold\n{END}\nAfter\n")
    return results, readme
