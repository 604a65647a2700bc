"""The tar of a unit's clips: the same bytes for the same clips, and the place of each for readers that seek."""

import io
import tarfile
from pathlib import Path
from typing import Any, Self

BLOCK = 512
"""Bytes of a tar's header, and what its members are padded to."""


class ClipTar:
    """Writes a tar; use it in a `with` block, whose end closes it."""

    def __init__(self, path: Path) -> None:
        """Begin the tar.

        Args:
            path: of the file.
        """
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._tar.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a file, and return the position of its first byte.

        Args:
            name: at most 100 characters.
            data: its bytes, below 8 GiB.
        """
        member = tarfile.TarInfo(name)
        member.size = len(data)
        offset = self._tar.offset + BLOCK
        self._tar.addfile(member, io.BytesIO(data))
        return offset
