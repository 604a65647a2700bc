"""Shards as other tools make them, without indices."""

from pathlib import Path

import numpy as np

from lavie.data.media.encode import encode_mp4
from lavie.data.shards.index import load_index
from tests.data.tars import make_tar


def foreign_shard(path: Path, *names: str, extra: tuple[tuple[str, bytes], ...] = ()) -> Path:
    """Write a tar with the members `extra`, and then for each name a clip of its own shade, a caption and a json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = list(extra)
    for shade, name in enumerate(names):
        clip = encode_mp4(np.full((4, 32, 32, 3), 20 * shade, np.uint8), 8)
        members += [(f"{name}.mp4", clip), (f"{name}.txt", f"clip {name}".encode()), (f"{name}.json", b"{}")]
    return make_tar(path, members)


def foreign_folder(folder: Path) -> Path:
    """Write two shards: one with a pickle and a video without a caption beside two good clips, one with one clip."""
    foreign_shard(folder / "00000.tar", "a", "v1.0_clip", extra=(("x.pkl", b""), ("b.mp4", b"")))
    foreign_shard(folder / "00001.tar", "c")
    return folder


def keys(folder: Path) -> list[str]:
    """Return the keys of all samples that the indices in a folder list."""
    return [sample.key for sample in load_index((str(folder),))]
