"""The list of samples that are to be left out: the file that `data.exclude` of a config names."""

import threading
from pathlib import Path

from ...errors import ConfigError
from ...files import replacing


class Excluded:
    """The keys in a file, one a line, which is written anew at every change."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.

        Raises:
            ConfigError: it cannot be read.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        except (OSError, ValueError) as error:
            raise ConfigError(f"--exclude {path}: no file of keys, one a line: {error}") from None
        self._keys = dict.fromkeys(line.strip() for line in lines if line.strip())

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are left out."""
        with self._lock:
            return frozenset(self._keys)

    def mark(self, key: str, out: bool) -> None:
        """Leave a sample out, or take it in again, and write the file.

        Raises:
            ConfigError: the key does not fit on a line, or the file cannot be written.
        """
        if not key or key != key.strip() or len(key.splitlines()) != 1:
            raise ConfigError(f"{key!r} cannot stand on a line of its own: leave it out by data.exclude=[...]")
        with self._lock:
            keys = dict(self._keys)
            if out:
                keys[key] = None
            else:
                keys.pop(key, None)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self.path) as temporary:
                    temporary.write_text("".join(f"{name}\n" for name in keys), encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"--exclude {self.path}: cannot be written: {error.strerror}") from None
            self._keys = keys
