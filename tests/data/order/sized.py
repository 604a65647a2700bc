"""Datasets of noise whose samples have given sizes."""

import io

import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile


def write_sized(out, **media):
    """Pack a dataset into the folder `out`.

    Args:
        out: the folder of its shards.
        media: for each name its size: (width, height, frames) for videos `v...`, which have 8 frames a second, and
            (width, height) for images `i...`. The name is the caption too.
    """
    rng = np.random.default_rng(0)

    def encoded(name, width, height, frames=0):
        pixels = rng.integers(0, 256, (max(1, frames), height, width, 3), dtype=np.uint8)
        if name.startswith("v"):
            return encode_mp4(pixels, 8)
        file = io.BytesIO()
        Image.fromarray(pixels[0]).save(file, "png")
        return file.getvalue()

    files = {name: encoded(name, *size) for name, size in media.items()}
    entries = (CaptionedFile(name, name, lambda data=data: data, name) for name, data in files.items())
    pack_files(entries, out, num_frames=1, fps=8)
