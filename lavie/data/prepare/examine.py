"""The examination of one captioned file before it is packed: everything is decoded once, in a child process."""

import hashlib
from dataclasses import asdict, dataclass
from threading import Lock

import numpy as np

from ...errors import DataError
from ..media.clips import clip_indices
from ..media.decode import MediaInfo, frame_times
from .captioned_file import CaptionedFile
from .captions import clean_caption
from .gif import convert_gif
from .sandbox import Sandbox, probe
from .segments import cut_frames

RATE_TOLERANCE = 0.05
"""How far a file's rate may be from the one that its table gives: tables round 23.976 to 24, and GIFs 12 to 12.5."""


@dataclass(frozen=True)
class Clip:
    """What a training clip is, by which videos are judged."""

    num_frames: int
    fps: float | None
    frame_stride: int | None


@dataclass(frozen=True)
class Examined:
    """A captioned file that was read."""

    sha256: str
    """The SHA-256 of the bytes in the source; empty where they were not read."""
    caption: str = ""
    """The clean caption."""
    data: bytes = b""
    """The bytes to pack."""
    info: MediaInfo | None = None
    """What they hold; None if the file cannot train."""
    converted: bool = False
    """Whether the bytes are those of a GIF stored as mp4 or png."""
    reason: str = ""
    """Why the file cannot train: the class of the fault."""
    detail: str = ""
    """What exactly is wrong with it."""


class Films:
    """What films hold whose parts are packed, so that a film is not decoded in full for each of its parts."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._locks = dict[str, Lock]()
        self._info = dict[str, MediaInfo]()

    def info(self, sha256: str, data: bytes, sandbox: Sandbox) -> MediaInfo:
        """Return what the film with these bytes holds. Raises DataError."""
        with self._lock:
            lock = self._locks.setdefault(sha256, Lock())
        with lock:  # the other parts of the film wait for the one that decodes it
            if sha256 not in self._info:
                self._info[sha256] = probe(data, run=sandbox.call)
            return self._info[sha256]


def examine(file: CaptionedFile, clip: Clip, films: Films, sandbox: Sandbox, unless: str = "") -> Examined:
    """Read and decode a captioned file.

    Args:
        file: the file.
        clip: what a video must hold.
        films: known films, to which new ones are added.
        sandbox: where media is decoded.
        unless: the SHA-256 of bytes that need no examination, as they were packed before.
    """
    sha256 = ""
    try:
        caption = clean_caption(file.caption)
    except DataError as error:
        return Examined("", reason="unusable caption", detail=str(error))
    try:
        data = file.load()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == unless:
            return Examined(sha256, caption)
        if file.segment is not None:
            film = films.info(sha256, data, sandbox)
            if film.kind == "image":
                return Examined(sha256, reason="unusable segment", detail="an image has no parts")
            try:
                frames = file.segment.frames_of(_times(data, film, sandbox))
            except DataError as error:
                return Examined(sha256, reason="unusable segment", detail=str(error))
            data = sandbox.call(cut_frames, data, frames.start, frames.stop, asdict(film))
        info = probe(data, run=sandbox.call)
        times = _times(data, info, sandbox)
    except DataError as error:
        return Examined(sha256, reason="undecodable", detail=str(error))

    if info.fps and file.fps and abs(info.fps / file.fps - 1) > RATE_TOLERANCE:
        detail = f"the table says {file.fps:g} frames per second, the file has {info.fps:g}"
        return Examined(sha256, reason="another rate than listed", detail=detail)
    if info.kind == "video":
        try:
            clip_indices(times, clip.num_frames, fps=clip.fps, frame_stride=clip.frame_stride, u=0)
        except DataError as error:
            return Examined(sha256, reason="too short", detail=str(error))
    if info.format != "gif":
        return Examined(sha256, caption, data, info)
    data = sandbox.call(convert_gif, data, info.frames, info.fps, info.vfr)
    return Examined(sha256, caption, data, probe(data, run=sandbox.call), converted=True)


def _times(data: bytes, info: MediaInfo, sandbox: Sandbox) -> np.ndarray:
    """Return when each frame is shown: float64 (frames,), seconds. Only a variable rate costs a call of the sandbox."""
    if info.vfr:
        return sandbox.call(frame_times, data, info.frames)
    return np.arange(info.frames) / (info.fps or 1.0)
