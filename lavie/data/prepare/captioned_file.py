"""What a source yields: a medium with its caption, not yet checked; and what is no sample and no loss either."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import DataError
from .scan import MAX_MEMBER
from .segments import Segment


@dataclass(frozen=True, slots=True)
class CaptionedFile:
    """One medium with its caption, not yet checked."""

    name: str
    """The name by which the user knows it: its path within the source, and the part of the film if it is one."""
    stem: str
    """Its file name without the suffix, of which the key in a shard is made."""
    load: Callable[[], bytes]
    """A function that reads the media bytes; raises DataError."""
    caption: bytes | str
    """The caption as it was found: bytes from a file, text from a table."""
    segment: Segment | None = None
    """The part of the film that the caption tells of; None: all of it."""
    fps: float | None = None
    """Frames per second that the medium is said to have; None: nothing is said."""
    stamp: str = ""
    """A text that changes when the medium is written anew, made without reading it. Empty: it must be read."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that a source holds beside its samples, and that is counted and no loss."""

    name: str
    """What it is called in the source."""
    what: str
    """What it is counted as."""


def file_on_disk(
    name: str, path: Path, caption: bytes | str, segment: Segment | None = None, fps: float | None = None
) -> CaptionedFile:
    """Return a captioned file whose bytes are read when they are asked for."""
    facts = path.stat()
    stamp = f"{facts.st_size} bytes of {facts.st_mtime_ns}"
    return CaptionedFile(name, path.stem, partial(_read, path), caption, segment, fps, stamp)


def printable(name: str) -> str:
    """Return a name as text that can be printed and written: what is no UTF-8 becomes an escape, as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _read(path: Path) -> bytes:
    """Return the bytes of a file. Raises DataError if it is too large or cannot be read."""
    try:
        if path.stat().st_size > MAX_MEMBER:
            raise DataError(f"{path.stat().st_size} bytes: at most {MAX_MEMBER} are read, split it into clips")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from None
