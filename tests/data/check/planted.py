"""Small media with and without defects, for shards that are checked."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.scan import index_shard
from lavie.data.shards.index_file import write_index
from lavie.seeds import numpy_generator
from tests.data.tars import make_tar

CAPTION = b"a good clip of the noise"


def moving(seed: int, frames: int = 16, times: Sequence[float] | None = None) -> bytes:
    """Return a video of noise, at 8 frames per second or shown at `times` in seconds."""
    pixels = numpy_generator(seed, "doctor test").integers(40, 256, (frames, 32, 32, 3), np.uint8)
    return encode_mp4(pixels, None if times is not None else 8, times=times)


def still(level: int) -> bytes:
    """Return a video whose pixels all have one grey level."""
    return encode_mp4(np.full((16, 32, 32, 3), level, np.uint8), 8)


def png(seed: int) -> bytes:
    """Return an image of noise."""
    file = io.BytesIO()
    pixels = numpy_generator(seed, "doctor image").integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def make_shard(path: Path, members: dict[str, bytes], index: bool = True) -> Path:
    """Write a tar and, unless told otherwise, its index; return the tar's path."""
    make_tar(path, list(members.items()))
    if index:
        write_index(path, *index_shard(path))
    return path


GOOD = {"a.mp4": moving(1), "a.txt": CAPTION, "b.png": png(1), "b.txt": b"a good image of the noise"}
"""The members of a video and an image without a defect."""
