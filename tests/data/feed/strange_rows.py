"""Rows for tests of the processes that make them, in a module that these processes can import."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lavie.data.feed.rows import Announce, Row, Rows


@dataclass
class GivenRows:
    """Rows that exist already, one for each position."""

    rows: list[Row]
    row_bytes: int

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """See Rows.row."""
        return self.rows[position]


class FaultyRows:
    """Rows whose program has a fault."""

    row_bytes = 1

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """Raise AttributeError."""
        return self.nothing  # type: ignore[attr-defined]


@dataclass
class StuckRows:
    """Rows that are never made: each process leaves a file of the name of its id in the folder, and waits."""

    folder: Path
    row_bytes: int = 1

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """Never return."""
        (self.folder / str(os.getpid())).touch()
        while True:
            time.sleep(3600)


@dataclass
class DeadlyRows:
    """Rows of which one sample kills the process that is about to read it."""

    rows: Rows
    deadly: str
    """The sample's address."""

    @property
    def row_bytes(self) -> int:
        """See Rows.row_bytes."""
        return self.rows.row_bytes

    def row(self, position: int, unreadable: Mapping[str, str] | None = None, announce: Announce | None = None) -> Row:
        """See Rows.row."""

        def announce_and_die(address: str) -> None:
            assert announce
            announce(address)
            if address == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)

        return self.rows.row(position, unreadable, announce_and_die)
