"""Making a cache of latents and text features. `lavie.data.cache.layout` says what a cache holds.

The ranks share the entries that are missing by the entries' numbers, a shard's worth to each rank in turn. So they need
not speak to each other, may start and end at any time, and go on where they were stopped.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.data import DataConfig
from ..config.load import validate
from ..config.overrides import merge
from ..config.train import TrainConfig
from ..data.cache.description import write_description
from ..data.cache.failures import write_failures
from ..data.cache.layout import size_folder
from ..data.cache.lookup import Lookup
from ..data.cache.write import write_lookups, write_shard
from ..data.feed.cores import worker_count
from ..data.feed.cuts import CutRows, cached_samples
from ..data.feed.rows import Row
from ..data.feed.workers import Workers
from ..data.order.buckets import load_buckets
from ..data.shards.index import Index
from ..launcher import launched_rank
from ..models.identity import encoder_identity
from .entry_encoders import EntryEncoders
from .open_caches import made_with

SHARD_BYTES = 256 << 20
"""Bytes at which a shard is closed: large enough for sequential disks, and little is lost with an unfinished one."""

Failure = dict[str, Any]
"""An entry that could not be made: "entry" (its key, in hexadecimal digits), "key" (its sample's), "cut", "reason"."""

Done = Callable[[str, int, int], None]
"""Hears of progress: the kind and the size, how many of this rank's entries are done, and how many it has to do."""


@dataclass
class CacheReport:
    """What one rank found and did while a cache was made, over all sizes of clips."""

    wanted: int = 0
    """Entries that the configuration asks for: those of all ranks."""
    kept: int = 0
    """Wanted entries of all ranks that were in the cache before."""
    encoded: int = 0
    """Entries that this rank has made."""
    failed: list[Failure] = field(default_factory=list)
    """The entries of this rank that could not be made."""


def cache_data(
    config: TrainConfig,
    out: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float16,
    batch: int = 8,
    shard_bytes: int = SHARD_BYTES,
    done: Done = lambda kind, number, total: None,
) -> CacheReport:
    """Encode this rank's share of the entries of data.train that the cache lacks.

    Decoding runs in data.num_workers processes.

    Args:
        config: the run that the cache is for.
        out: the folder of the cache; made if it is missing.
        device: where the encoders run; they run in the dtype of training.
        dtype: the dtype of the entries.
        batch: clips, or images, that are encoded at a time.
        shard_bytes: the most bytes of latents and features in a shard, unless one entry has more.
        done: called after every shard.

    Raises:
        ConfigError: the configuration cannot be cached.
        DataError: the data cannot be read, or `out` holds entries that were made otherwise.
    """
    # The configuration must be one that can train from this cache.
    values = merge(config.model_dump(mode="json"), {"data": {"cache": str(out)}})
    config = validate(TrainConfig, values, f"`lavie data cache` into {out}")
    report, encoders = CacheReport(), EntryEncoders(config, device, dtype)
    identity = encoder_identity(config)

    for bucket in load_buckets(config.data, config.data.train, config.seed).all:
        data, folder = bucket.data, size_folder(out, bucket.data)

        # A black image without a caption shows which tensors an entry has, and gives the empty caption's features.
        black = encoders.encode(torch.zeros(1, 1, data.height, data.width, 3, dtype=torch.uint8), [""])
        black_entry = {name: tensor[0] for name, tensor in black.items()}
        write_description(folder, made_with(data, identity), black_entry, black_entry["text"], encoders.runs_in)

        # Shards of one kind after another. Each is written whole, so an interruption costs one shard at most.
        failures: list[Failure] = []
        for kind, indices in cached_samples(bucket.datasets, data).items():
            frames = data.num_frames if kind == "clips" else 1
            entry_bytes = sum((1 if name == "text" else frames) * tensor.nbytes for name, tensor in black_entry.items())
            share = _RankShare(Lookup.scan(folder, kind), indices, data.cuts or 1, shard_bytes // entry_bytes)
            report.wanted += share.wanted
            report.kept += share.wanted - share.absent
            entries_done = 0
            with closing(_entry_rows(indices, share.numbers, data, batch)) as rows:
                for keys in share.shards():
                    shard_failures = _make_shard(encoders, folder, kind, keys, rows, batch, data.cuts or 1)
                    failures += shard_failures
                    report.encoded += len(keys) - len(shard_failures)
                    entries_done += len(keys)
                    done(f"{kind} {bucket.name}", entries_done, len(share.numbers))

        write_failures(folder, launched_rank().rank, failures)
        write_lookups(folder)
        report.failed += failures
    return report


class _RankShare:
    """This rank's share of the missing entries of one kind, in the order of their numbers.

    Attributes:
        wanted: how many entries the configuration asks for, of all ranks.
        absent: how many of them the cache lacks, of all ranks.
        numbers: int64 (n,), the numbers of this rank's missing entries, as `CutRows` counts them.
    """

    def __init__(self, lookup: Lookup, indices: Sequence[Index], cuts: int, per_shard: int) -> None:
        """Find this rank's entries.

        Args:
            lookup: the entries that the cache has.
            indices: the samples of one kind.
            cuts: the number of cuts of each sample.
            per_shard: the most entries of a shard.
        """
        launched = launched_rank()
        self.wanted = cuts * sum(len(index) for index in indices)
        self.absent = 0
        # Smaller shards than allowed where the dataset is small: no rank is idle over one.
        per_rank = -(-self.wanted // launched.world_size)
        self._per_shard = max(1, min(per_shard, per_rank))

        # The numbers of an index's entries go on from those of the index before. Empty arrays stand for no index.
        rank_numbers, rank_keys = [np.empty(0, np.int64)], [np.empty((0, 16), np.uint8)]
        first = 0
        for index in indices:
            for numbers_in_index, keys in lookup.absent(index, cuts):
                numbers = first + numbers_in_index
                is_ours = numbers // self._per_shard % launched.world_size == launched.rank
                rank_numbers.append(numbers[is_ours])
                rank_keys.append(keys[is_ours])
                self.absent += len(numbers)
            first += cuts * len(index)
        self.numbers, self._keys = np.concatenate(rank_numbers), np.concatenate(rank_keys)

    def shards(self) -> Iterator[np.ndarray]:
        """Yield the keys of the entries of each shard that this rank is to write: uint8 (m, 16)."""
        for start in range(0, len(self.numbers), self._per_shard):
            yield self._keys[start : start + self._per_shard]


def _make_shard(
    encoders: EntryEncoders, folder: Path, kind: str, keys: np.ndarray, rows: Iterator[Row], batch: int, cuts: int
) -> list[Failure]:
    """Encode the next rows, one for each key, write them as a shard, and return the entries that could not be made.

    Args:
        encoders: make the entries.
        folder: the folder of the size.
        kind: one of KINDS.
        keys: uint8 (n, 16), the keys of the entries.
        rows: gives the n rows of the entries first.
        batch: how many rows are encoded at a time.
        cuts: the number of cuts of each sample.
    """
    encoded: list[int] = []  # positions in `keys`
    tensors: dict[str, list[Tensor]] = {}
    failures: list[Failure] = []
    for numbered_rows in _in_batches(rows, len(keys), batch):
        reasons: dict[int, str] = {}

        # A row without pixels says why it has none.
        readable: list[tuple[int, Row]] = []
        for i, row in numbered_rows:
            if row["dropped"]:
                reasons[i] = row["dropped"][0]["reason"]
            else:
                readable.append((i, row))

        # An entry that its dtype cannot hold is worse than none: training would take its infinities.
        if readable:
            pixels = torch.stack([row["pixels"] for _, row in readable])
            entries = encoders.encode(pixels, [row["captions"][0] for _, row in readable])
            finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in entries.values()]).all(0)
            for name, tensor in entries.items():
                tensors.setdefault(name, []).append(tensor[finite])
            for (i, _), is_finite in zip(readable, finite.tolist(), strict=True):
                if is_finite:
                    encoded.append(i)
                else:
                    reasons[i] = f"its features are past the range of {encoders.dtype} (--dtype)"

        for i, row in numbered_rows:
            if i in reasons:
                entry, cut = keys[i].tobytes().hex(), row["position"] % cuts
                failures.append({"entry": entry, "key": row["keys"][0], "cut": cut, "reason": reasons[i]})
    if encoded:
        write_shard(folder, kind, keys[encoded], {name: torch.cat(parts) for name, parts in tensors.items()})
    return failures


def _entry_rows(indices: Sequence[Index], numbers: np.ndarray, data: DataConfig, ahead: int) -> Generator[Row]:
    """Yield the rows of the entries with some numbers. The tensors of a row are valid until the next is asked for.

    Args:
        indices: the samples of one kind.
        numbers: int64 (n,), the numbers of the entries.
        data: the configuration of one size.
        ahead: how many rows a decoding process makes ahead.
    """
    dataset = CutRows(indices, data)
    if not (count := worker_count(data)):
        yield from map(dataset.row, numbers.tolist())
    elif len(numbers):
        workers = Workers(dataset, iter(numbers.tolist()), count, ahead=ahead, timeout=data.timeout)
        with closing(workers) as rows:
            yield from rows


def _in_batches(rows: Iterator[Row], count: int, size: int) -> Iterator[list[tuple[int, Row]]]:
    """Yield the next `count` rows with their numbers from 0, `size` at a time; their tensors are copies."""
    batch: list[tuple[int, Row]] = []
    for number, row in enumerate(islice(rows, count)):
        if "pixels" in row:
            row["pixels"] = row["pixels"].clone()
        batch.append((number, row))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
