"""The list of samples that are to be left out: the file that `data.exclude` of a config names."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError
from ...files import replacing


class Excluded:
    """The keys in a file, one a line. Others may write to it as well: it is read whenever its keys are wanted."""

    def __init__(self, path: Path) -> None:
        """Take a file, which need not be there yet.

        Raises:
            ConfigError: it cannot be read.
        """
        self.path = path
        self._lock = threading.Lock()
        self._lines()

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are left out. Raises ConfigError if the file cannot be read."""
        return frozenset(line.strip() for line in self._lines() if line.strip())

    def mark(self, key: str, out: bool) -> None:
        """Leave a sample out, or take it in again. All other lines of the file stay as they are now.

        Raises:
            ConfigError: the key does not fit on a line, or the file cannot be read or written.
        """
        if not key or key != key.strip() or len(key.splitlines()) != 1:
            raise ConfigError(f"{key!r} cannot stand on a line of its own: leave it out by data.exclude=[...]")
        try:
            with self._alone():
                lines = self._lines()
                kept = [line for line in lines if line.strip() != key]
                if out == (len(kept) < len(lines)):
                    return
                if out and kept and kept[-1].splitlines()[0] == kept[-1]:
                    kept[-1] += "\n"
                with replacing(self.path) as temporary:
                    temporary.write_text("".join([*kept, f"{key}\n" if out else ""]), encoding="utf-8", newline="")
        except OSError as error:
            raise ConfigError(f"--exclude {self.path}: cannot be written: {error.strerror}") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and other viewers from writing. The lock has a file beside, for the list is replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self.path.with_name(f".{self.path.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lines(self) -> list[str]:
        """Return the lines of the file with their ends; none if it is missing. Raises ConfigError."""
        try:
            if not self.path.exists():
                return []
            with self.path.open(encoding="utf-8", newline="") as file:
                return file.read().splitlines(keepends=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--exclude {self.path}: no file of keys, one a line: {error}") from None
