"""Files to which a run appends a JSON object a line, each with the step that it tells of; read even where damaged.

A log must stop no run, and no picture of one: a line that is torn, empty, full of NULs, not UTF-8, no object with a
step, or with a number that no run writes is left out, and a warning tells how many there were.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import replacing

log = logging.getLogger("lavie")

DROPPED = "dropped-rank{}.jsonl"
"""The samples that a rank could not read, by the rank."""
DAMAGED = ".damaged"
"""What follows the name of a file in that of the copy that is kept of it when damaged lines are taken out."""
LARGEST = 1e100
"""The largest finite number of a record: sums and products of such fit a float. A loss of float32 ends at 3.4e38."""
LARGEST_WHOLE, LARGEST_STEP = 2**63 - 1, 2**53
"""The largest whole number of a record, and its largest step, which a float holds."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file's lines. A line that is still being written is no damage.

    Raises:
        OSError: the file cannot be read.
    """
    lines = list(_lines(path))
    damaged = sum(record is None and line.endswith(b"\n") for line, record in lines)
    if damaged:
        log.warning(f"{path}: {_count(damaged)} left out")
    return [record for _, record in lines if record is not None]


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Leave in a file what a run that goes on after `step` does not write again; nothing at step 0.

    Lines of later steps go, and damaged ones. Where there are some, the file as it was is kept beside it, unless that
    has been done before.

    Returns:
        The objects of the file as it was, those that went among them; none at step 0.
    """
    if not path.exists():
        return []
    lines = list(_lines(path)) if step else []
    kept = [line.removesuffix(b"\n") + b"\n" for line, record in lines if record and record["step"] <= step]
    damaged = sum(record is None for _, record in lines)

    copy = path.with_name(path.name + DAMAGED)
    if damaged and not copy.exists():
        with replacing(copy) as partial:
            shutil.copyfile(path, partial)
    if damaged:
        log.warning(f"{path}: {_count(damaged)} taken out; {copy.name} is the file as it was when that was first done")
    with replacing(path) as partial:  # a job that ends here keeps its records
        partial.write_bytes(b"".join(kept))
    return [record for _, record in lines if record is not None]


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line to a file. Where the disk is full, a warning says so, and the line is lost."""
    try:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        log.warning(f"{path}: a line is lost: {error.strerror}")


def _count(damaged: int) -> str:
    """Return a number of damaged lines in words."""
    return f"{damaged} damaged line{'s' if damaged > 1 else ''}"


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each line of a file and its object; None for a damaged one."""
    with path.open("rb") as file:
        for line in file:
            yield line, _object(line)


def _object(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line, with or without its end; None if that is no object with a step."""
    try:
        found = json.loads(line.decode(), parse_float=_measured, parse_int=_counted)
    except (ValueError, RecursionError):
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return found if isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= LARGEST_STEP else None


def is_warm_up(record: dict[str, Any]) -> bool:
    """Return whether a step has no rates because it warmed up the run, or its size."""
    return record.get("samples_per_s", 0) is None


def _measured(digits: str) -> float:
    """Return a number. Raises ValueError for one beyond LARGEST; NaN and Infinity are words of their own."""
    if abs(value := float(digits)) > LARGEST:
        raise ValueError(f"{digits[:20]} is too large")
    return value


def _counted(digits: str) -> int:
    """Return a whole number. Raises ValueError for one beyond LARGEST_WHOLE."""
    if abs(value := int(digits)) > LARGEST_WHOLE:
        raise ValueError(f"{digits[:20]} is too large")
    return value
