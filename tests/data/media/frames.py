"""Frames to encode, and image files."""

import io

import numpy as np
from PIL import Image

from lavie.data.prepare.synthetic import HELD_OUT, render_clip
from lavie.seeds import numpy_generator


def moving_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return frames whose grey level tells their number, with a bar that moves, so that the encoder uses B-frames."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:] = 20 + 200 * i // count
        frame[:, (3 * i) % (width - 8) :][:, :8] = 255
    return frames


def drawn_frames(size: int) -> np.ndarray:
    """Return a clip of the demo set, which x264's AVX-512 code would encode by what memory happens to hold."""
    colour, shape, direction = HELD_OUT[4]
    return render_clip(colour, shape, f"moving {direction}", rng=numpy_generator(4, "test"), frames=12, size=size)


def png(mode: str = "RGB", size: tuple[int, int] = (8, 6), **save) -> bytes:
    """Return a black png of a mode of Pillow, (width, height) in size, saved with more options."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, "png", **save)
    return file.getvalue()
