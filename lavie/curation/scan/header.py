"""How long a film is by its header, read in the sandbox: units are filled by it, before any film is decoded."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...data.media.streams import open_video
from ...data.prepare.sandbox import Sandbox

SECONDS = 30.0
"""Limit of processor time for one header."""
LONGEST = 1e7
"""Seconds, of four months: a header that announces more is not believed."""


def film_seconds(path: Path, sandbox: Sandbox) -> float | None:
    """Return the duration that a film's header announces, in seconds; None if it announces none.

    Args:
        path: the film.
        sandbox: where it is read.

    Raises:
        DataError: the file holds no film, or its header is damaged.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        (seconds,) = sandbox.stream(announced_seconds, file, seconds=SECONDS)
    return seconds if 0 < seconds < LONGEST else None


def announced_seconds(file: BinaryIO) -> Iterator[float]:
    """Yield the duration in the header of a film once, 0 if there is none; runs in the child."""
    with open_video(file, None, first=True) as (container, _):
        yield float(container.duration or 0) / 1e6
