"""From global positions to batches of pixels and captions.

What a position holds depends on the dataset, the configuration and the seed only: not on ranks, workers, or where the
run was resumed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any, NotRequired, TypedDict

import torch

from ...config.data import DataConfig, DatasetConfig, DegradationConfig
from ...errors import DataError
from ..cache.cache import Cache
from ..decoders.choice import choose_backend
from ..decoders.clip import Backend, EncodedClip
from ..decoders.dali import DaliDecoder, Device
from ..order.buckets import Buckets, load_buckets
from ..order.datasets import load_datasets
from .bucket_rows import BucketDataset
from .cuts import cached_samples
from .decoded import DecodedBatches
from .rows import ClipDataset, Dropped, Row
from .share import Share
from .workers import ARRAYS, Workers

log = logging.getLogger("lavie")

CPU = torch.device("cpu")

__all__ = ["Batch", "Batches", "ClipDataset", "Dropped", "Row", "build_loader", "fixed_batches"]


class Batch(TypedDict):
    """The rows of one micro-batch. B = train_batch_size, F = num_frames, N = num_images.

    F, H and W are those of the step's bucket, if there are data.buckets.
    """

    pixels: NotRequired[torch.Tensor]
    """uint8 (B, F + N, H, W, 3), RGB; the images come last. Pinned where there is a GPU. Not with a cache.

    Where DALI decodes: float32 (B, F + N, 3, H, W) in [-1, 1], on the device.
    """
    mean: NotRequired[torch.Tensor]
    """(B, F + N, C, h, w), in the cache's dtype: of the autoencoder's posterior, scaled. Only with a cache."""
    std: NotRequired[torch.Tensor]
    """Like `mean`; absent where the latents are certain."""
    text: NotRequired[torch.Tensor]
    """(B, 1 + N, L, D): the features of `captions`. Only with a cache."""
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
    train: Sequence[str | DatasetConfig] | Buckets,
    share: Share,
    *,
    start_step: int = 0,
    degradation: DegradationConfig | None = None,
    caches: Mapping[str, Cache] | None = None,
    device: torch.device = CPU,
) -> Batches | DecodedBatches:
    """An endless iterator over this rank's micro-batches, in step order from `start_step` on.

    train: the datasets, or what `load_buckets` has made of them with the seed of `share`.
    Each step gives share.gradient_accumulation_steps of them, together the rank's slice of the step's positions. With
    `degradation`, they hold `low_res`; with `caches`, one for each size, their entries in place of pixels.
    Decoding runs in `data.num_workers` processes, two micro-batches ahead in each, or, as data.decoder says, on
    `device`, where the run trains. Raises DataError if the dataset, or a cache, cannot serve the configuration, and
    ConfigError if the decoder cannot.
    """
    backend: Backend = "pyav"
    if not caches:
        verified = data.verify == "always"
        backend, why = choose_backend(data.decoder, device, degraded=degradation is not None, verified=verified)
        log.info("data: clips are decoded by %s: %s", backend, why)
    buckets = train if isinstance(train, Buckets) else load_buckets(data, train, share.seed)
    for bucket, cache in [(bucket, caches[bucket.name]) for bucket in buckets.all] if caches else []:
        cache.require(cached_samples(bucket.datasets, bucket.data), bucket.data)

    def dataset(dali: Device | None) -> BucketDataset:
        return BucketDataset(
            buckets, share.seed, caches, global_batch=share.global_batch, degradation=degradation, dali=dali
        )

    def batches(dataset: BucketDataset) -> Batches:
        rows: Iterator[Any] = chain.from_iterable(map(share.positions, count(start_step)))
        if data.num_workers:
            rows = Workers(dataset, rows, data.num_workers, ahead=2 * share.train_batch_size, timeout=data.timeout)
        else:
            rows = map(dataset.__getitem__, rows)
        return Batches(rows, share.train_batch_size)

    if backend == "pyav":
        return batches(dataset(None))

    def decoder(frames: int, height: int, width: int) -> DaliDecoder:
        return DaliDecoder(frames, height, width, data.crop, device=device, batch_size=share.train_batch_size)

    decoded = batches(dataset("gpu" if backend == "dali-gpu" else "cpu"))
    return DecodedBatches(decoded, decoder, dataset(None).__getitem__, device)


def fixed_batches(
    data: DataConfig,
    paths: Sequence[str | DatasetConfig],
    share: Share,
    *,
    num_batches: int,
    degradation: DegradationConfig | None = None,
) -> list[Batch]:
    """This rank's part of the first `num_batches` micro-batches of every rank, with centred crops.

    The same on every call: for validation, on `data.held_out`, since data.buckets play no part.
    """
    whole = replace(share, gradient_accumulation_steps=num_batches)  # all of them are one step
    pools = load_datasets(data, paths)
    dataset = ClipDataset(
        pools, data, whole.seed, global_batch=whole.global_batch, centred=True, degradation=degradation
    )
    batches = Batches(map(dataset.__getitem__, whole.positions(0)), whole.train_batch_size)
    return list(islice(batches, num_batches))


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
            clip, to_come = replace(clip, data=row.pop("media").numpy().tobytes()), len(clip.indices)
        for name in row.keys() & set(ARRAYS) - {"media"}:
            if not number:
                frames, *rest = row[name].shape
                shape, pinned = (count, to_come + frames, *rest), torch.cuda.is_available()
                batch[name] = torch.empty(shape, dtype=row[name].dtype, pin_memory=pinned)
            batch[name][number, to_come:] = row[name]
        if clip:
            batch.setdefault("clips", []).append(clip)
        batch["captions"].append(row["captions"])
        batch["positions"][number] = row["position"]
        batch["keys"].append(row["keys"])
        batch["dropped"] += row["dropped"]
    return batch
