"""The clips of an evaluation: from folders of videos, GIFs or frames, from shards, and from sampled runs."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..data.media.decode import MediaInfo, probe, read_frames
from ..data.media.formats import sniff
from ..data.media.image import decode_image
from ..data.shards.index import load_index
from ..data.shards.index_file import Sample
from ..data.shards.member import read_member
from ..errors import DataError

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
"""The endings of files that are clips."""
PICTURES = (".png", ".jpg", ".jpeg")
"""The endings of files that are frames of the clip which their folder is."""
TWINS = (".mp4", ".gif")
"""Endings of the same sample as `lavie sample` writes it. The first counts; a GIF has fewer colours."""


class OpenClip:
    """A clip whose bytes are in memory, and whose frames are decoded when they are asked for."""

    def __init__(self, data: bytes | tuple[bytes, ...], frames: int | None = None) -> None:
        """Hold a clip.

        Args:
            data: a video file; or the frames as pictures, in order.
            frames: the count that `probe` finds, if it is known.
        """
        self._data, self._count = data, frames

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, or of the hashes of the pictures: 64 hexadecimal digits."""
        if isinstance(self._data, bytes):
            return hashlib.sha256(self._data).hexdigest()
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in self._data)).hexdigest()

    @cached_property
    def frames(self) -> int:
        """How many frames there are, 1 or more. Raises DataError if the file is damaged, or a still picture."""
        if not isinstance(self._data, bytes):
            return len(self._data)
        if sniff(self._data) in ("jpg", "png"):
            raise DataError("a picture under the name of a video: frames belong into a folder of their own")
        return self._count or self._info.frames

    @property
    def fps(self) -> float | None:
        """Frames per second; None where the file does not say it, and of a folder of pictures."""
        return self._info.fps if isinstance(self._data, bytes) else None

    @cached_property
    def _info(self) -> MediaInfo:
        """What a look through the video file finds."""
        assert isinstance(self._data, bytes)
        return probe(self._data)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames as uint8 (len(indices), H, W, 3), RGB; `indices` ascend.

        Raises:
            DataError: a frame is damaged, or two are of different sizes.
        """
        if isinstance(self._data, bytes):
            return np.stack(list(read_frames(self._data, indices, self.frames)))
        frames = [decode_image(self._data[int(i)]) for i in indices]
        if len({frame.shape for frame in frames}) > 1:
            sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in frames})
            raise DataError(f"frames of several sizes, {' and '.join(sizes)}: wanted one")
        return np.stack(frames)


class Clip(ABC):
    """One clip of an evaluation, which is read when it is asked for."""

    caption: str | None = None
    """What its set says that it shows; None where the set has no captions."""

    def __init__(self, name: str) -> None:
        """Make a clip of a name that no other clip of its source has."""
        self.name = name

    @abstractmethod
    def open(self) -> OpenClip:
        """Read the clip's bytes. Raises OSError or DataError where that fails."""


class VideoClip(Clip):
    """A clip that is a file."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path

    def open(self) -> OpenClip:
        return OpenClip(self.path.read_bytes())


class _FrameFolder(Clip):
    """A clip that is a folder of pictures."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        super().__init__(name)
        self.paths = paths

    def open(self) -> OpenClip:
        return OpenClip(tuple(path.read_bytes() for path in self.paths))


class _ShardMember(Clip):
    """A clip that is a video of a shard."""

    def __init__(self, name: str, sample: Sample) -> None:
        super().__init__(name)
        self.sample, self.caption = sample, sample.caption

    def open(self) -> OpenClip:
        return OpenClip(read_member(self.sample), self.sample.frames)


def find_clips(path: Path) -> list[Clip]:
    """Return the clips below a path, sorted by name.

    1. A folder of .tar shards, or one .tar, gives the videos of its index; their images are no clips.
    2. Every video or GIF below a folder is a clip, but a GIF beside the mp4 of its name, as `lavie sample` writes both.
    3. Every folder that holds pictures and no video is a clip: its frames, by the numbers in their names.
    4. A single video file is a clip.

    Links to files and folders are followed. One that leads nowhere is a clip, or a frame, that cannot be read.

    Raises:
        DataError: there is no clip, or a name is no UTF-8.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".tar" or (path.is_dir() and (any(path.glob("*.tar")) or any(path.glob("*.index.jsonl")))):
        return _in_shards(path)
    if path.is_file():
        if path.suffix.lower() not in VIDEOS:
            raise DataError(f"{path}: wanted a folder, a .tar or a video ({' '.join(VIDEOS)})")
        return [VideoClip(path.name, path)]

    found: list[Clip] = []
    for folder in _folders(path, path.resolve(), {path.resolve()}):
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
        files = sorted(p for p in entries if p.is_file() or (p.is_symlink() and not p.exists()))
        videos = [p for p in files if p.suffix.lower() in VIDEOS and not _is_twin(p)]
        found += [VideoClip(p.relative_to(path).as_posix(), p) for p in videos]
        pictures = sorted((p for p in files if p.suffix.lower() in PICTURES), key=_numbers)
        if pictures and not videos and folder != path:
            found.append(_FrameFolder(folder.relative_to(path).as_posix(), pictures))
    if not found:
        loose = any(p.suffix.lower() in PICTURES for p in path.iterdir())
        hint = (
            "the pictures in it would be frames of one clip: put each clip's into a folder below it"
            if loose
            else (f"wanted videos ({' '.join(VIDEOS)}), folders of frames ({' '.join(PICTURES)}), or .tar shards")
        )
        raise DataError(f"{path}: no clips; {hint}")
    for clip in found:
        require_utf8(clip.name, path)
    return sorted(found, key=lambda clip: clip.name)


def _folders(folder: Path, top: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield a folder and all below it, those behind links too; none that is hidden.

    Each is yielded once, at its own place if it lies below `top`, so that loops end.

    Args:
        folder: where to begin.
        top: the real path of the first folder.
        seen: the real paths of the folders that were yielded, which is added to.
    """
    yield folder
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        real = entry.resolve()
        if real not in seen and not (entry.is_symlink() and real.is_relative_to(top)):
            seen.add(real)
            yield from _folders(entry, top, seen)


def require_utf8(name: str, source: Path) -> str:
    """Return the name of a clip. Raises DataError if its bytes are no UTF-8: results could not name it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise DataError(f"{source}: the name of {shown} is no UTF-8: rename it, for results name their clips") from None
    return name


def _in_shards(path: Path) -> list[Clip]:
    """Return the videos of shards, named by shard and key."""
    videos = load_index([str(path)]).videos
    if not len(videos):
        raise DataError(f"{path}: the shards hold images only, and no clip")
    return sorted((_ShardMember(f"{Path(s.shard).stem}/{s.key}", s) for s in videos), key=lambda clip: clip.name)


def plain_name(name: str) -> str:
    """Return the name of a clip without the ending of a video."""
    ending = next((ending for ending in VIDEOS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _is_twin(path: Path) -> bool:
    """Return whether a file is a GIF beside the mp4 of the same name."""
    return path.suffix.lower() == TWINS[1] and path.with_suffix(TWINS[0]).is_file()


def _numbers(path: Path) -> tuple[list[int], str]:
    """Return the key that sorts frame_2 before frame_10: the numbers in a name, then the name."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name
