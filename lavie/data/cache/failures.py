"""The entries that could not be made: written down by each rank, so that training knows not to wait for them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .layout import DELETE, write_file


def write_failures(folder: Path, rank: int, failures: Iterable[Mapping[str, Any]]) -> None:
    """Write the failures of one rank, in place of those of an earlier call; without any, remove that rank's file.

    Args:
        folder: the folder of a size.
        rank: the rank that could not make these entries.
        failures: for each entry: "entry" (its key, in hexadecimal digits), "key" (its sample's), "cut" and "reason".
    """
    path = folder / f"failed-rank{rank}.jsonl"
    if text := "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures):
        write_file(path, text.encode())
    else:
        path.unlink(missing_ok=True)


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return the failures of all ranks, as `write_failures` takes them. Raises DataError if a file is damaged."""
    failures = []
    for path in sorted(folder.glob("failed-rank*.jsonl")):
        try:
            for text in path.read_text(encoding="utf-8").splitlines():
                failure = json.loads(text)
                if not isinstance(failure["entry"], str) or not isinstance(failure["reason"], str):
                    raise ValueError(f"entry {failure['entry']!r}, reason {failure['reason']!r}: wanted text")
                failures.append(failure)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error!r}. {DELETE}") from None
    return failures
