"""What files hold, as a hash in the identity of a stage: a changed file redoes what was made with it."""

import functools
import os
from pathlib import Path

from ..files import sha256_of
from .table import text_hash


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; size and time of writing tell whether one that was hashed before has changed."""
    facts = path.stat()
    return _sha256(str(path), facts.st_size, facts.st_mtime_ns)


def file_identity(path: str | None) -> str | None:
    """Return a hash of a file, or of all files of a folder by their names; None where there is nothing."""
    if path is None:
        return None
    root = Path(path)
    files = files_below(root) if root.is_dir() else [root] if root.is_file() else []
    if not files:
        return None
    return text_hash([[os.path.relpath(file, path), known_sha256(file)] for file in files])


def files_below(root: Path) -> list[Path]:
    """Return all files below a folder, sorted."""
    return sorted(path for path in root.rglob("*") if path.is_file())


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, size: int, written: int) -> str:
    """Return the SHA-256 of a file of this size and time of writing."""
    return sha256_of(path)
