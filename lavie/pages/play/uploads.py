"""Images that browsers send: kept under random names, and decoded by nothing but the guarded decoder."""

import re
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import ConfigError
from ...inference.video_io import write_png
from .order import ID

LARGEST = 64 << 20
"""Bytes of an upload, at most: 64 MB."""
SIDE = 160
"""Rows of the picture that the page shows of an upload."""

ReadStill = Callable[[Path, int, int], np.ndarray]
"""Decodes an image of strangers, scaled and cut to a height and width: uint8 (height, width, 3). ConfigError if it is
none. The caller gives it, since what decodes strangers' files belongs to the making of datasets."""


class Uploads:
    """The folder of uploaded images."""

    def __init__(self, folder: Path, read_still: ReadStill) -> None:
        """Make the folder if it is missing; what an upload that was cut short has left there is deleted."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.partial"):
            path.unlink()
        self._folder, self._read_still = folder, read_still

    def begin(self) -> Path:
        """Return the path of a new file that an upload is written to."""
        return self._folder / f"{secrets.token_hex(16)}.partial"

    def keep(self, partial: Path, aspect: float) -> str:
        """Keep the upload in a file of `begin`, and return its name.

        Args:
            partial: the file, which is gone afterwards.
            aspect: width over height of the picture that the page shows.

        Raises:
            ConfigError: it is no image that can be decoded.
        """
        try:
            picture = self._read(partial, SIDE, max(1, round(SIDE * aspect)))
            write_png(partial.with_suffix(".png"), picture)
            partial.rename(partial.with_suffix(""))
        finally:
            partial.unlink(missing_ok=True)
        return partial.stem

    def picture(self, name: str) -> Path | None:
        """Return the path of <id>.png, which shows an upload; None for any other name."""
        if not re.fullmatch(rf"{ID}\.png", name):
            return None
        path = self._folder / name
        return path if path.is_file() else None

    def still(self, name: str, height: int, width: int) -> np.ndarray:
        """Return an upload as uint8 (height, width, 3).

        Raises:
            ConfigError: there is none of this name.
        """
        path = self._folder / name
        if not re.fullmatch(ID, name) or not path.is_file():
            raise ConfigError(f"image: there is no upload {name}: choose the image again")
        return self._read(path, height, width)

    def _read(self, path: Path, height: int, width: int) -> np.ndarray:
        """Decode a file; where it is no image, the message says nothing of where it lies."""
        try:
            return self._read_still(path, height, width)
        except ConfigError as error:
            raise ConfigError(str(error).replace(f" {path}", "")) from None
