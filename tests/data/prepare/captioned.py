"""Captioned media in folders of a test's own, and what packing them gives."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import PackReport, pack
from lavie.data.shards.index import Index, load_index


def mp4(frames: int = 16) -> bytes:
    """Return a video of 48 x 32 pixels at 8 frames per second whose frames grow lighter."""
    pixels = np.zeros((frames, 32, 48, 3), np.uint8)
    pixels += (np.arange(frames, dtype=np.uint8) * 5)[:, None, None, None]
    return encode_mp4(pixels, 8)


def image(format: str = "png") -> bytes:
    """Return an orange picture of 8 x 6 pixels in a format of Pillow."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "orange").save(file, format)
    return file.getvalue()


def gif(durations_ms: list[int]) -> tuple[bytes, np.ndarray]:
    """Return a gif whose frames are shown for so long, and its frames, uint8 (F, 31, 33, 3)."""
    levels = np.arange(len(durations_ms), dtype=np.uint8)[:, None, None, None] * 10 + 5
    frames = np.broadcast_to(levels, (len(durations_ms), 31, 33, 3)).copy()
    frames[:, 3:9, 3:9] = (250, 10, 40)
    file = io.BytesIO()
    first, *rest = map(Image.fromarray, frames)
    first.save(file, "gif", save_all=True, append_images=rest, duration=durations_ms, loop=0)
    return file.getvalue(), frames


MP4 = mp4()
"""Sixteen frames, two seconds."""


def packed(src: Path, out: Path, **changes: Any) -> tuple[PackReport, Index]:
    """Pack `src` into `out` for clips of 16 frames at 8 fps, or with changes of these; return report and index."""
    values = {"num_frames": 16, "fps": 8}
    report = pack(src, out, **{**values, **changes})
    return report, load_index((str(out),))


def captions(index: Index) -> list[str]:
    """Return the captions of all samples in alphabetical order."""
    return sorted(sample.caption for sample in index)


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files by their paths within a folder, which is made if need be and returned."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder
