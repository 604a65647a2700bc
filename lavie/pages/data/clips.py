"""Samples as training would cut them, and files that a browser shows, made when they are first asked for."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...config.data import DataConfig
from ...data.feed.sample import PixelReader
from ...data.shards.index_file import Sample
from ...inference.video_io import write_mp4, write_png

KEPT = 512
"""Files that are kept at a time."""
FPS = 8.0
"""Frames per second where nothing says how fast a clip is to play."""
LONGEST, SIDE = 240, 320
"""Frames and pixels of the longer side of a sample that no config cuts, at most."""


class Shown:
    """A folder of files that are made once, of which the newest are kept. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder."""
        self._folder = folder
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}

    def file(self, name: str, make: Callable[[], tuple[np.ndarray, float]]) -> Path:
        """Return the path of a clip as .mp4, or of a picture as .png.

        Args:
            name: of the file.
            make: returns uint8 (F, H, W, 3) and the frames per second; a picture is the first frame.
        """
        path = self._folder / name
        with self._lock:
            if name not in self._names:
                frames, fps = make()
                if path.suffix == ".png":
                    write_png(path, frames[0])
                else:
                    write_mp4(path, frames, fps)
                self._names[name] = None
                while len(self._names) > KEPT:
                    oldest = next(iter(self._names))
                    del self._names[oldest]
                    (self._folder / oldest).unlink(missing_ok=True)
        return path

    def known(self, name: str) -> Path | None:
        """Return the path of a file that was made and is still kept; None for any other name."""
        return self._folder / name if name in self._names else None


def whole(sample: Sample, most: int = LONGEST) -> DataConfig:
    """Return the data section that shows a sample uncut, small, and up to so many frames of it."""
    shrink = min(1.0, SIDE / max(sample.height, sample.width))
    return DataConfig(
        train=(),
        num_frames=min(sample.frames, most),
        num_images=0,
        height=max(1, round(sample.height * shrink)),
        width=max(1, round(sample.width * shrink)),
        frame_stride=1,
    )


def cut(sample: Sample, data: DataConfig, seed: int, visit: int) -> tuple[np.ndarray, float]:
    """Return a sample as training would cut it, uint8 (F, H, W, 3), and the frames per second at which it plays.

    Args:
        sample: a video or an image.
        data: the data section of a run, of one size.
        seed: of the run.
        visit: which cut: each visit of a run draws another, unless data.cuts fixes them.

    Raises:
        DataError: it cannot be read, or is too short.
    """
    number = None if data.cuts is None else visit % data.cuts
    content = PixelReader(data, seed).read(sample, visit, number)
    fps = data.fps or (sample.fps or FPS) / (data.frame_stride or 1)
    return content.tensors["pixels"].numpy(), fps
