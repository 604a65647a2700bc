"""The names of files that an operating system leaves among a user's: counted, and neither read nor rejected."""

from pathlib import PurePosixPath

SYSTEM_FILE = "file of the system"
"""What such files are counted as."""
NAMES = frozenset(
    name.lower()
    for name in (
        # macOS: the state of a window, of a volume, and the second halves of files in a zip
        *(".DS_Store", "__MACOSX", ".Spotlight-V100", ".Trashes", ".fseventsd", ".apdisk", ".TemporaryItems"),
        # Windows: thumbnails, the look of a folder, and what belongs to a volume
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
    )
)
"""Names of files and folders, in lower case, since Windows changes the case."""
APPLE_DOUBLE = "._"
"""What the second half of a file begins with that macOS writes to disks and tars of other kinds (RFC 1740)."""


def is_system_file(name: str) -> bool:
    """Return whether a path is a file of the operating system, or lies in one of its folders."""
    return any(part.startswith(APPLE_DOUBLE) or part.lower() in NAMES for part in PurePosixPath(name).parts)
