"""A long run over a mixture whose media takes no time to decode: `python -m tests.data.feed.long_run [STEPS]`.

Prints the resident memory at ten points of a million steps (about five minutes).
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from lavie.config.data import DataConfig
from lavie.data.feed.batches import Batches
from lavie.data.feed.loader import build_loader
from lavie.data.feed.sample import Content, PixelReader
from lavie.data.feed.share import Share
from lavie.data.prepare.synthetic import demo_set

FAR = 10**12
"""The step at which the weights of the mixture stop changing."""


def datasets(out: Path) -> Path:
    """Write two small datasets of clips and images into a folder, and return it."""
    for seed, (name, clips, images) in enumerate([("a", 10, 5), ("b", 4, 3)]):
        demo_set(out / name, clips=clips, images=images, size=16, frames=8, seed=seed)
    return out


def loader(
    folders: Path, batch: int = 4, start_step: int = 0, rank: int = 0, world_size: int = 1, **changes
) -> tuple[Batches, DataConfig]:
    """Return the batches of one rank over a mixture of the two datasets, and their configuration."""
    train = [
        {"path": str(folders / "a/train"), "name": "a", "weight": [[0, 1.0], [FAR, 0.25]]},
        {"path": str(folders / "b/train"), "name": "b", "weight": [[0, 0.0], [FAR, 1.0]], "image_weight": 1},
    ]
    values = {"train": train, "num_frames": 2, "num_images": 2, "height": 8, "width": 8, "fps": 8, "num_workers": 0}
    data = DataConfig(**{**values, **changes})
    batches = build_loader(
        data,
        data.train,
        Share(seed=0, train_batch_size=batch, rank=rank, world_size=world_size),
        start_step=start_step,
    )
    return batches, data


def measured(folders: Path, steps: int, replace: Callable[[object, str, object], None]) -> list[int]:
    """Run `steps` steps without decoding, and return the resident bytes of this process at ten points.

    `replace` sets an attribute of an object, as monkeypatch.setattr does.
    """
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    clip, image = Content({"pixels": frames}), Content({"pixels": frames[:1]})
    replace(PixelReader, "read", lambda self, sample, position, cut: clip if sample.kind == "video" else image)
    batches, _ = loader(folders, batch=1)
    process, rss = psutil.Process(), []
    for step in range(steps):
        next(batches)
        if step % (steps // 10) == 0:
            rss.append(process.memory_info().rss)
    return rss


def main() -> None:
    """Print the resident memory of a long run."""
    start, steps = time.monotonic(), int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as out:
        rss = measured(datasets(Path(out)), steps, setattr)
    print(f"{steps} steps in {time.monotonic() - start:.0f} s, resident MiB:", *(f"{n / 2**20:.1f}" for n in rss))


if __name__ == "__main__":
    main()
