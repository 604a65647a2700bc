"""Finished stages of a cascade on disk: their frames without loss, and what they were made of.

OUT/work/00000-base.npy    uint8 (F, H, W, 3)
OUT/work/00000-base.json   the record: prompt, settings, weights, and the record of the stage before; written last
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config.stages import STAGES
from ..files import replacing

log = logging.getLogger("lavie")

Record = Mapping[str, Any]
"""All that decides the frames of one clip at one stage, as JSON values."""


class Work:
    """The folder in which a cascade keeps its finished stages."""

    def __init__(self, folder: str | Path) -> None:
        """Name the folder, which is created when it is first written to."""
        self.folder = Path(folder)

    def record(self, index: int, stage: str) -> dict[str, Any] | None:
        """Return the record of clip `index` at a stage, dropped frames or not; None if that stage was not finished."""
        try:
            return json.loads(self._path(index, stage, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def get(self, index: int, stage: str, record: Record) -> np.ndarray | None:
        """Return the frames of clip `index` at a stage, mapped from the disk; None unless their record is this one.

        Damaged ones are None, too, and a warning names the file.
        """
        path = self._path(index, stage, ".npy")
        if not path.is_file() or self.record(index, stage) != record:
            return None
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (EOFError, OSError, ValueError) as error:
            log.warning("%s is damaged (%s): the stage is drawn again", path, error)
            return None

    def put(self, index: int, stage: str, record: Record, frames: np.ndarray) -> np.ndarray:
        """Write frames and their record, and return the frames mapped from the disk.

        The old record goes first and the new one comes last: a record always tells the truth of the frames beside it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(index, stage, ".json").unlink(missing_ok=True)
        with replacing(self._path(index, stage, ".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, frames, allow_pickle=False)
        with replacing(self._path(index, stage, ".json")) as temporary:
            temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return np.load(self._path(index, stage, ".npy"), mmap_mode="r", allow_pickle=False)

    def size(self) -> int:
        """Return the bytes of all frames in the folder."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def drop(self) -> None:
        """Delete all frames. Their records stay, and say what the videos made of them show."""
        for path in self.folder.glob("*.npy"):
            path.unlink()

    def forget(self, first: int) -> None:
        """Delete what is kept of clips from a number on."""
        for path in [*self.folder.glob("*.npy"), *self.folder.glob("*.json")]:
            number, _, stage = path.stem.partition("-")
            if stage in STAGES and number.isdecimal() and int(number) >= first:
                path.unlink()

    def _path(self, index: int, stage: str, suffix: str) -> Path:
        return self.folder / f"{index:05d}-{stage}{suffix}"
