"""Small datasets made for tests: media, shards packed from them, and damage done to those."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile
from lavie.data.shards.index import load_index


def png(pixels: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def waves(seed: int, frames: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    """Draw a moving pattern that brightens by 4 levels a frame: uint8 (frames, height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    waves = [110 + 4 * i + 50 * np.sin(x / 7 + seed + i / 2) * np.cos(y / 9) for i in range(frames)]
    return np.repeat(np.stack(waves)[..., None], 3, -1).astype(np.uint8)


def pack_media(out: Path, files: dict[str, bytes], num_frames: int = 1) -> Path:
    """Pack media files into one shard, each with its name for a key and a caption; a video holds `num_frames`."""
    pack_files((CaptionedFile(k, k, lambda d=d: d, k) for k, d in files.items()), out, num_frames=num_frames, fps=8)
    return out


def write_media(out: Path, **sizes: tuple[int, int]) -> Path:
    """Pack noise: videos `v...` of 8 frames and images `i...`, each of a size (width, height)."""
    rng = np.random.default_rng(0)
    files = {}
    for name, (width, height) in sizes.items():
        if name.startswith("v"):
            files[name] = encode_mp4(rng.integers(0, 256, (8, height, width, 3), dtype=np.uint8), 8)
        else:
            files[name] = png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return pack_media(out, files, num_frames=8)


def write_ramp(out: Path, frames: int, times: list[float] | None = None) -> Path:
    """Pack one video of 32 x 32 pixels whose frame t has the level 20 t, at 8 a second or at `times` in seconds."""
    pixels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.full((32, 32, 3), 20, np.uint8)
    return pack_media(out, {"v": encode_mp4(pixels, times=times) if times else encode_mp4(pixels, 8)})


def write_lone(out: Path) -> Path:
    """Pack one grey video of 8 frames, whose key ends in `lone`."""
    return pack_media(out, {"lone": encode_mp4(np.full((8, 32, 32, 3), 90, np.uint8), 8)}, num_frames=4)


def damage(folder: Path, keys: set[str]) -> None:
    """Flip a bit in the middle of the media of some samples of a folder's first shard."""
    tar = folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    for sample in load_index((str(folder),)):
        if sample.key in keys:
            data[sample.offset + sample.size // 2] ^= 1
    tar.write_bytes(data)
