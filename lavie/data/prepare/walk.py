"""The files of a folder and of all folders below it, in a stable order, linked folders too."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..shards.index_file import Rejected
from .captioned_file import Passed, printable
from .system_files import SYSTEM_FILE, is_system_file


def walk(src: Path) -> Iterator[Path | Rejected | Passed]:
    """Yield the paths of all files below `src`, sorted by their parts, and in between what is passed over.

    1. Links to folders are followed. Each folder is read once, at its own place if it lies below `src`, so that loops
       end; a further way to it is passed over and named.
    2. Links that lead nowhere, folders that cannot be read, and names that are no UTF-8 are rejected.
    3. Files of the operating system are passed over, and pipes, sockets and devices.
    """
    yield from _below(src, src, {src.resolve()})


def _below(folder: Path, src: Path, read: set[Path]) -> Iterator[Path | Rejected | Passed]:
    """Walk one folder; `read` holds the real paths of the folders that were read, and is added to."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Rejected(str(folder.relative_to(src)), "unreadable folder", error.strerror or str(error))
        return
    for entry in entries:
        path = folder / entry.name
        name = printable(str(path.relative_to(src)))
        if name != str(path.relative_to(src)):
            yield Rejected(name, "unreadable name", "it is no UTF-8: rename the file or folder")
        elif is_system_file(name):
            yield Passed(name, SYSTEM_FILE)
        elif entry.is_symlink() and not path.exists():
            yield Rejected(name, "broken link", f"leads to {os.readlink(path)}, which is not there")
        elif not path.is_dir():
            yield path if path.is_file() else Passed(name, "neither file nor folder")
        else:
            # A linked folder that lies below `src` itself will be read, or was, at its own place.
            real = path.resolve()
            if real in read or (entry.is_symlink() and real.is_relative_to(src.resolve())):
                yield Passed(f"{name} -> {real}", "link to a folder that is read elsewhere")
            else:
                read.add(real)
                yield from _below(path, src, read)
