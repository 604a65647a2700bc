"""Runs on the demo set whose plans are known."""

import numpy as np

from lavie.config.data import DataConfig
from lavie.data.media.encode import encode_mp4
from lavie.data.prepare.pack import pack_files
from lavie.data.prepare.sources import CaptionedFile


def config(demo, **changes) -> DataConfig:
    """Return a run of two datasets, the first of which gives way to the second over 40 steps."""
    train = [
        {"path": str(demo / "train"), "name": "first", "weight": [[0, 1.0], [40, 0.2]]},
        {"path": str(demo / "validation"), "name": "second", "weight": [[0, 0.0], [40, 1.0]]},
    ]
    values = {"train": train, "num_frames": 4, "num_images": 2, "height": 16, "width": 16, "fps": 8}
    return DataConfig(**{**values, **changes})


def bucketed(demo, out, **changes) -> DataConfig:
    """Return a run of two buckets: one for the demo's square clips, and one for wide ones, which are packed in `out`.

    Two of the six wide clips are smaller than their bucket.
    """
    pixels = np.zeros((8, 20, 40, 3), np.uint8)
    files = {f"w{i}": encode_mp4(pixels[:, : 10 if i < 2 else 20, : 20 if i < 2 else 40], 8) for i in range(6)}
    pack_files(
        (CaptionedFile(n, n, lambda media=media: media, n) for n, media in files.items()), out, num_frames=1, fps=8
    )
    train = config(demo).model_dump()["train"]
    train[1]["path"] = [str(out), str(demo / "validation")]
    buckets = [{"num_frames": 4, "height": 16, "width": 16}, {"num_frames": 8, "height": 16, "width": 24}]
    return config(demo, **{"train": train, "buckets": buckets, **changes})
