"""Unfinished files: each attempt at a unit writes in a folder of its own, and what nobody writes any more is swept.

A folder below OUT/partial holds a file `lock` that its writer keeps locked. The kernel lets go of the lock when the
writer dies, on another node too where the file system shares locks; so the lock tells what is stale, and no clock does.
"""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

FOLDER = "partial"


@contextmanager
def partial_folder(out: Path, what: str) -> Iterator[Path]:
    """Give a folder for unfinished files, on the file system of `out`; it is gone when the block ends.

    Args:
        out: the folder of the curation.
        what: what is made, a part of the folder's name.
    """
    while True:
        folder = out / FOLDER / f"{what}.{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            lock = _locked(folder / "lock")
        except FileNotFoundError:  # swept between the two lines
            continue
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(out: Path) -> int:
    """Remove the folders of writers that are gone, and return how many there were."""
    swept = 0
    for folder in sorted((out / FOLDER).glob("*")):
        lock = None
        with contextlib.suppress(OSError):  # somebody else sweeps it, or this file system knows no locks
            lock = _locked(folder / "lock")
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            swept += 1
    with contextlib.suppress(OSError):
        (out / FOLDER).rmdir()
    return swept


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file, made if need be; None if somebody else has or had it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
