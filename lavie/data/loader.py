"""From global positions to batches of pixels and captions.

What a position holds depends on the dataset, the configuration and the seed only: not on ranks, workers, or where the
run was resumed.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NotRequired, TypedDict

import torch

from ..config_data import DataConfig, DatasetConfig, DegradationConfig
from ..errors import DataError
from .dali import DaliDecoder, Device
from .decoders import DecodedBatches, EncodedClip, choose_backend
from .pools import load_pools
from .rows import ClipDataset, Dropped, Row
from .stream import positions
from .workers import Workers

log = logging.getLogger("lavie")

CPU = torch.device("cpu")

__all__ = ["Batch", "Batches", "ClipDataset", "Dropped", "Row", "build_loader", "fixed_batches"]


class Batch(TypedDict):
    """The rows of one micro-batch. B = train_batch_size, F = num_frames, N = num_images."""

    pixels: torch.Tensor
    """uint8 (B, F + N, H, W, 3), RGB; the images come last. Pinned where there is a GPU.

    Where DALI decodes: float32 (B, F + N, 3, H, W) in [-1, 1], on the device.
    """
    low_res: NotRequired[torch.Tensor]
    """uint8 (B, F, H / scale, W / scale, 3): the clips degraded, if the loader was given how."""
    captions: list[list[str]]
    """B lists of 1 + N: the clip's caption, then each image's."""
    positions: torch.Tensor
    """int64 (B,), the global position of each row."""
    keys: list[list[str]]
    """B lists of 1 + N."""
    dropped: list[Dropped]


class Batches(Iterator[Batch]):
    """Rows gathered into batches. `close` ends the processes behind it, as does letting go of it."""

    def __init__(self, rows: Iterator[Row | DataError], batch_size: int) -> None:
        self._rows, self._batch_size = rows, batch_size

    def __next__(self) -> Batch:
        return _collate(islice(self._rows, self._batch_size), self._batch_size)

    def close(self) -> None:
        """End the decoding processes, if there are any."""
        if isinstance(self._rows, Workers):
            self._rows.close()


def build_loader(
    data: DataConfig,
    paths: Sequence[str | DatasetConfig],
    *,
    seed: int,
    train_batch_size: int,
    gradient_accumulation_steps: int,
    rank: int,
    world_size: int,
    start_step: int = 0,
    degradation: DegradationConfig | None = None,
    device: torch.device = CPU,
) -> Batches | DecodedBatches:
    """An endless iterator over this rank's micro-batches, in step order from `start_step` on.

    Each step gives `gradient_accumulation_steps` of them, together the rank's slice of the step's positions. With
    `degradation`, they hold `low_res`. Decoding runs in `data.num_workers` processes, two micro-batches ahead in each,
    or, as data.decoder says, on `device`, where the run trains. Raises DataError if the dataset cannot serve the
    configuration, and ConfigError if the decoder cannot.
    """
    verified = data.verify == "always"
    backend, why = choose_backend(data.decoder, device, degraded=degradation is not None, verified=verified)
    log.info("data: clips are decoded by %s: %s", backend, why)
    global_batch = train_batch_size * gradient_accumulation_steps * world_size
    pools = load_pools(data, paths)
    plain = ClipDataset(pools, data, seed, global_batch=global_batch, degradation=degradation)
    dataset = plain
    if backend != "pyav":
        dali: Device = "gpu" if backend == "dali-gpu" else "cpu"
        dataset = ClipDataset(pools, data, seed, global_batch=global_batch, dali=dali)
    rows: Iterator[Any] = chain.from_iterable(_slices(global_batch, rank, world_size, start_step))
    if data.num_workers:
        rows = Workers(dataset, rows, data.num_workers, ahead=2 * train_batch_size, timeout=data.timeout)
    else:
        rows = map(dataset.__getitem__, rows)
    batches = Batches(rows, train_batch_size)
    if backend == "pyav":
        return batches

    def decoder(frames: int, height: int, width: int) -> DaliDecoder:
        return DaliDecoder(frames, height, width, data.crop, device=device, batch_size=train_batch_size)

    return DecodedBatches(batches, decoder, plain.__getitem__, device)


def fixed_batches(
    data: DataConfig,
    paths: Sequence[str | DatasetConfig],
    *,
    seed: int,
    train_batch_size: int,
    num_batches: int,
    rank: int,
    world_size: int,
    degradation: DegradationConfig | None = None,
) -> list[Batch]:
    """This rank's part of the first num_batches * train_batch_size * world_size positions, with centred crops.

    The same on every call: for validation.
    """
    total = train_batch_size * num_batches * world_size
    pools = load_pools(data, paths)
    dataset = ClipDataset(pools, data, seed, global_batch=total, centred=True, degradation=degradation)
    rows = map(dataset.__getitem__, positions(0, total, rank, world_size))
    return [next(batches) for batches in [Batches(rows, train_batch_size)] for _ in range(num_batches)]


def _slices(global_batch: int, rank: int, world_size: int, start_step: int) -> Iterator[range]:
    """The positions of one rank in each step, without end."""
    step = start_step
    while True:
        yield positions(step, global_batch, rank, world_size)
        step += 1


def _collate(rows: Iterator[Row | DataError], count: int) -> Batch:
    """One batch of `count` rows, each copied to its place before the next is asked for.

    With DALI, it also has `clips` as DecodedBatches takes them.
    """
    batch: Any = {"captions": [], "positions": torch.empty(count, dtype=torch.int64), "keys": [], "dropped": []}
    row: Any
    for number, row in enumerate(rows):
        if isinstance(row, DataError):
            raise row
        clip, to_come = row.get("clip"), 0
        if isinstance(clip, EncodedClip):
            clip, to_come = replace(clip, data=row["media"].numpy().tobytes()), len(clip.indices)
        for name in {"pixels", "low_res"} & row.keys():
            if not number:
                frames, *rest = row[name].shape
                shape, pinned = (count, to_come + frames, *rest), torch.cuda.is_available()
                batch[name] = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            batch[name][number, to_come:] = row[name]
        if clip:
            batch.setdefault("clips", []).append(clip)
        batch["captions"].append(row["captions"])
        batch["positions"][number] = row["position"]
        batch["keys"].append(row["keys"])
        batch["dropped"] += row["dropped"]
    return batch
