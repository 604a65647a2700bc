"""Files that appear whole or not at all, replace none without a word, and have the mode that the umask gives."""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ConfigError

LONGEST_NAME = 255
"""Bytes of a file's name, on the usual file systems."""
LAG = 90.0
"""Seconds after which a node must see what another has written: clients of NFS keep what they know of a file or a
folder for up to 60 (acregmax, acdirmax)."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; on success that file is fsynced and renamed over `path`.

    The name is this process's own (host and process id), so that several may write at a time and the last one wins.
    When the block raises, the file is removed and `path` stays as it was.

    Raises:
        OSError: nothing was written, or `path` cannot be replaced.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def appears(path: Path, size: int | None = None) -> bool:
    """Return whether a file or folder that another node has made is seen here, at once or within LAG seconds.

    Args:
        path: of the file or folder.
        size: the bytes that the file must have; default: any.
    """
    deadline = time.monotonic() + LAG
    while not _is_there(path, size):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
        with suppress(OSError):  # a client of NFS asks its server anew about a folder that is opened
            os.close(os.open(path.parent, os.O_RDONLY))
    return True


def _is_there(path: Path, size: int | None) -> bool:
    """Return whether there is a file or folder, of this many bytes if `size` is not None."""
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return size in (None, found)


def write_if_new(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; a file that says the same already keeps its time of writing."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _partial(path: Path) -> Path:
    """Return this process's own name beside a path; where that would be too long, a hash stands for the path's name."""
    own, name = f".{socket.gethostname()}-{os.getpid()}.partial", path.name
    if len(os.fsencode(f".{name}{own}")) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{own}")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def apply_umask(path: str | Path) -> None:
    """Give a file the mode of one that `open` makes: some libraries write files that nobody else may read."""
    umask = os.umask(0o077)
    os.umask(umask)
    Path(path).chmod(0o666 & ~umask)


def require_free(
    *targets: str | Path, overwrite: bool = False, replaceable: Callable[[Path], bool] = lambda path: True
) -> None:
    """Raise ConfigError if something lies at one of `targets`, unless it may be replaced.

    An empty folder is free. Commands call this before they work, with every file that they would write over.

    Args:
        targets: files or folders that a command is about to write.
        overwrite: whether --overwrite was given.
        replaceable: whether what lies at a path is of the kind that --overwrite replaces.
    """
    for target in map(Path, targets):
        taken = target.is_symlink() or target.exists()
        if not taken or (target.is_dir() and not any(target.iterdir())):
            continue
        if not overwrite or not replaceable(target):
            what = "" if replaceable(target) else ", and is nothing that --overwrite replaces"
            either = ", or --overwrite" if replaceable(target) else ""
            raise ConfigError(f"{target} exists{what}: give another place{either}")


def require_writable(*targets: str | Path) -> None:
    """Raise ConfigError unless a file can be written to each of `targets`, whose folders are made when that is done.

    Commands call this before long work. A file is made in the nearest folder that is there, and is removed again.

    Args:
        targets: files.
    """
    for target in map(Path, targets):
        if os.path.isdir(target):
            raise ConfigError(f"{target} is a folder: wanted a file, give another place")
        parents = list(target.absolute().parents)
        folder = next(parent for parent in parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise ConfigError(f"{target}: {folder} is no folder: give another place")
        attempt = folder / _partial(target).name
        for name in (target.name, *(parent.name for parent in parents[: parents.index(folder)])):
            if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX"):
                raise ConfigError(
                    f"{target} cannot be written: the name {name[:20]}... is too long: give another place"
                )
        try:
            attempt.touch()
            attempt.unlink()
        except OSError as error:
            raise ConfigError(f"{target} cannot be written: {error.strerror}: give another place") from None
