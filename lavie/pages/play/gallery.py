"""The clips that were drawn, on disk: each a video, a picture, and a JSON file with all that it was made of.

GALLERY/<id>.mp4    the clip of the last stage
GALLERY/<id>.jpg    its first frame, small
GALLERY/<id>.json   the `Entry`; written last, so that a clip is there whole or not at all
"""

import fcntl
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ... import __version__
from ...config.base import Strict
from ...config.stages import StageName
from ...errors import ConfigError
from ...files import replacing
from ...inference.video_io import write_mp4
from ...json_text import parse_json, require_unicode
from .order import ID, Order, as_json

log = logging.getLogger("lavie")

PICTURE = 480
"""Pixels of a picture's longer side, at most."""
LOCK = ".lock"
"""The file that the server of a gallery holds."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder of a gallery, and keep other servers from it until the block ends.

    Raises:
        ConfigError: another one has it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be written to: {error.strerror}: give another folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--out {folder}: another lavie play draws into it: use its page, or give another folder"
            ) from None
        yield


class Drawn(BaseModel):
    """The settings of a stage as far as the page reads them; those of another version may have others beside."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    num_inference_steps: int
    """Denoising steps."""
    guidance_scale: float
    """Scale of classifier-free guidance."""
    scheduler: str
    """The sampler."""
    negative_prompt: str
    """What the stage steered away from."""


class Merged(BaseModel):
    """A LoRA that was merged into the weights, as far as the page reads it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    lora: str
    """The file's name."""
    scale: float
    """Its scale."""


class Entry(Strict):
    """A clip of the gallery."""

    id: str = Field(pattern=f"^{ID}$")
    """Its random name."""
    made: str
    """When it was drawn: ISO 8601 in UTC."""
    order: Order
    """What draws it once more, alone."""
    settings: dict[StageName, Drawn]
    """By stage, all settings that it was drawn with."""
    weights: dict[str, str]
    """By stage, the folder of its weights, with a hash of its files' sizes and times."""
    loras: list[Merged] = Field(default_factory=list)
    """What identifies the LoRAs that were merged into the weights."""
    size: tuple[int, int, int]
    """Frames, height and width in pixels."""
    fps: float
    """Frames per second."""
    seconds: float
    """How long it took to draw."""
    lavie: str = __version__
    """The version that drew it."""


class Gallery:
    """The folder of the clips. Any thread may add to it and read it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is missing, and read what lies there.

        A file that is no entry stays where it is, and is told in one line of the log and on the page.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self.faults: list[str] = []
        """A sentence for each file that cannot be read."""
        found = []
        for path in folder.glob("*.json"):
            try:
                found.append(_read(path))
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                self.faults.append(f"{path.name} is no clip of the gallery, and is left as it is: {reason}")
                log.warning(f"{folder}: {self.faults[-1]}")
        self._entries = {entry.id: entry for entry in sorted(found, key=lambda entry: entry.made)}

    def __len__(self) -> int:
        return len(self._entries)

    def page(self, offset: int, count: int) -> list[dict[str, Any]]:
        """Return entries as JSON values, newest first.

        Args:
            offset: how many newer ones are passed over.
            count: how many, at most.
        """
        with self._lock:
            names = list(self._entries)[::-1][offset : offset + count]
            return [self._entries[name].model_dump(mode="json") for name in names]

    def file(self, name: str) -> Path | None:
        """Return the path of <id>.mp4 or <id>.jpg of an entry; None for any other name."""
        stem, _, ending = name.partition(".")
        if ending not in ("mp4", "jpg") or stem not in self._entries:
            return None
        return self.folder / f"{stem}.{ending}"

    def add(
        self,
        frames: np.ndarray,
        *,
        order: Order,
        settings: Mapping[str, Mapping[str, Any]],
        weights: dict[str, str],
        loras: Sequence[Mapping[str, Any]],
        fps: float,
        seconds: float,
    ) -> Entry:
        """Write a clip and all that it was made of.

        Args:
            frames: uint8 (F, H, W, 3).
            order, settings, weights, loras, fps, seconds: see `Entry`.
        """
        size = frames.shape[0], frames.shape[1], frames.shape[2]
        entry = Entry(
            id=secrets.token_hex(16),
            made=datetime.now(UTC).isoformat(timespec="milliseconds"),
            order=order,
            settings={
                stage: Drawn.model_validate(settings[stage]) for stage in get_args(StageName) if stage in settings
            },
            weights=weights,
            loras=[Merged.model_validate(lora) for lora in loras],
            size=size,
            fps=fps,
            seconds=round(seconds, 2),
        )
        write_mp4(self.folder / f"{entry.id}.mp4", frames, fps)
        picture = Image.fromarray(frames[0])
        picture.thumbnail((PICTURE, PICTURE))
        with replacing(self.folder / f"{entry.id}.jpg") as temporary:
            picture.save(temporary, format="JPEG", quality=90)
        with replacing(self.folder / f"{entry.id}.json") as temporary:
            temporary.write_text(as_json(entry.model_dump(mode="json")), encoding="utf-8")
        with self._lock:
            self._entries[entry.id] = entry
        return entry


def _read(path: Path) -> Entry:
    """Return the entry of a file. Raises ValueError or OSError if it is none, or its clip is missing."""
    if not re.fullmatch(ID, path.stem):
        raise ValueError("its name is not of 32 hexadecimal digits")
    try:
        entry = Entry.model_validate(require_unicode(parse_json(path.read_bytes())))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}") from None
    if entry.id != path.stem:
        raise ValueError(f"it is of the clip {entry.id}")
    if not path.with_suffix(".mp4").is_file():
        raise ValueError(f"{path.stem}.mp4 is missing")
    return entry
