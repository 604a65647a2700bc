"""What the tests of the loader have in common: small configurations, batches taken apart, the processes behind them."""

import itertools
import multiprocessing
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lavie.config.data import DataConfig, DegradationConfig
from lavie.data.feed.batches import Batch
from lavie.data.feed.loader import build_loader
from lavie.data.feed.share import Share

MOVING = {"num_images": 0, "crop": "patch", "height": 16, "width": 16, "camera_speed": 2.0}
"""Changes to `small` under which images can move; data.moving_images says how many do."""


def small(*folders: Path | str, **changes: Any) -> DataConfig:
    """Return a configuration of clips of 4 frames, 24 x 32 pixels, with one image each, decoded in this process."""
    values = {"num_frames": 4, "num_images": 1, "height": 24, "width": 32, "fps": 8, "num_workers": 0}
    return DataConfig(**{"train": tuple(map(str, folders)), **values, **changes})


def rows_of(batches: Iterable[Batch]) -> list[tuple]:
    """Return the rows of batches as (position, keys, captions, pixels), followed by `low_res` where there is one."""
    rows: list[tuple] = []
    for batch in batches:
        low_res = [batch["low_res"]] if "low_res" in batch else []
        positions = batch["positions"].tolist()
        rows += zip(positions, batch["keys"], batch["captions"], batch["pixels"], *low_res, strict=True)
    return rows


def assert_same(a: list[tuple], b: list[tuple]) -> None:
    """Compare what `rows_of` returned, bit for bit."""
    assert [row[:3] for row in a] == [row[:3] for row in b]
    assert all(torch.equal(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(x[3:], y[3:], strict=True))


def take(
    data: DataConfig,
    steps: int,
    *,
    world_size: int = 1,
    batch: int = 4,
    accumulation: int = 1,
    start_step: int = 0,
    seed: int = 0,
    degradation: DegradationConfig | None = None,
) -> list[tuple]:
    """Return the rows of `steps` steps over all ranks, in the order of their positions, as `rows_of` does."""
    values = {
        "seed": seed,
        "train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "world_size": world_size,
    }
    loaders = [
        build_loader(data, data.train, Share(**values, rank=rank), start_step=start_step, degradation=degradation)
        for rank in range(world_size)
    ]
    rows = []
    for _ in range(steps):
        for loader in loaders:
            rows += rows_of(itertools.islice(loader, accumulation))
    for loader in loaders:
        loader.close()
    return rows


def processes(before: Iterable[BaseProcess] = ()) -> list[BaseProcess]:
    """Return the processes of all loaders that run, oldest first, without those that ran `before`."""
    found = set(multiprocessing.active_children()) - set(before)
    return sorted(found, key=lambda process: process.pid or 0)
