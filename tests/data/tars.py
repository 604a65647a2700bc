"""Tars made by hand, with whatever members a test wants."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4

MP4 = encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 8)
"""Four black frames of 32 x 32 pixels at 8 frames per second."""


def png() -> bytes:
    """Return a black png of 8 x 6 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "png")
    return file.getvalue()


def make_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """Write a tar of members, each a name or a header, and its content; return its path."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return the header of a member that is no plain file, such as a link to `target`."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [("a.mp4", MP4), ("a.txt", b"a clip"), ("a.json", b"{}")]
"""The members of one sample without a defect."""
