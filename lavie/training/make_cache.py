"""Making a cache of latents and text features, and taking one for a run. `lavie.data.cache.layout` says what it holds.

Encoding is shared among ranks by the numbers of the entries, a shard's worth in turn, so that the ranks need not speak
to each other, may start and end at any time, and go on where they were stopped.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.data import DataConfig
from ..config.load import merge, validate
from ..config.train import TrainConfig
from ..data.cache.cache import Cache
from ..data.cache.description import write_description
from ..data.cache.failures import write_failures
from ..data.cache.layout import size_folder
from ..data.cache.lookup import Lookup
from ..data.cache.write import write_lookups, write_shard
from ..data.feed.cuts import CutRows, cached_samples
from ..data.feed.rows import Row
from ..data.feed.workers import Workers
from ..data.order.buckets import load_buckets
from ..data.shards.index import Index
from ..errors import ConfigError
from ..launcher import launched_rank
from ..models.autoencoder import build_autoencoder
from ..models.identity import encoder_identity
from ..models.text_encoder import build_text_encoder
from ..pixels import to_float
from .deepspeed import training_dtype

PIXELS = 1
"""Version of decoding, scaling and cutting: another one means other pixels out of the same file and cut."""
SHARD_BYTES = 256 << 20
"""Size at which a shard is closed: large enough for sequential disks, and little is lost with an unfinished one."""


def open_caches(config: TrainConfig) -> dict[str, Cache] | None:
    """The cache of each size of a run, by its name, if it has one.

    Raises DataError if it was made for other encoders, pixels or sizes.
    """
    data = config.data
    if data.cache is None:
        return None
    encoders = encoder_identity(config)
    each = [(size.name, data.of_size(size)) for size in data.sizes]
    return {name: Cache(data.cache, own, made_with(own, encoders)) for name, own in each}


def made_with(data: DataConfig, encoders: Mapping[str, Any]) -> dict[str, Any]:
    """All that an entry depends on beside its sample and cut, each by the key, folder or version that decides it.

    data: of one size.
    """
    names = ("num_frames", "height", "width", "fps", "frame_stride", "crop")
    return {f"data.{name}": getattr(data, name) for name in names} | {"pixels": PIXELS} | dict(encoders)


def own_device(asked: str | None = None) -> torch.device:
    """The device that was asked for; else the GPU of this rank's place on its node, or the CPU."""
    if asked is not None:
        try:
            return torch.empty(0, device=asked).device
        except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without the device
            raise ConfigError(f"--device {asked}: {str(error).splitlines()[0]}") from None
    if not torch.cuda.is_available():
        return torch.device("cpu")
    launched = launched_rank()
    if launched.local_rank is not None:
        return torch.device("cuda", launched.local_rank)
    return torch.device("cuda", launched.rank % torch.cuda.device_count())


@dataclass
class CacheReport:
    """What was there, and what one rank did, over all sizes."""

    wanted: int = 0
    """Entries that the configuration asks for: those of all ranks."""
    kept: int = 0
    """Of these, the ones that were there before."""
    encoded: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    """The entries of this rank that could not be made: entry, key, cut and reason."""


Done = Callable[[str, int, int], None]
"""Hears of progress: the kind and the size, how many entries are done, and of how many."""


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
    """Encode what this rank is to encode of data.train and `out` lacks; see the module.

    dtype: of the entries; the encoders run in that of training. batch: clips, or images, that are encoded at a time.
    Decoding runs in data.num_workers processes. Raises ConfigError or DataError if the configuration cannot be cached,
    or if `out` holds entries that were made otherwise.
    """
    values = merge(config.model_dump(mode="json"), {"data": {"cache": str(out)}})
    config = validate(TrainConfig, values, f"`lavie data cache` into {out}")
    report, encoders = CacheReport(), _Encoders(config, device, dtype)
    identity = encoder_identity(config)
    for bucket in load_buckets(config.data, config.data.train, config.seed).all:
        data, folder = bucket.data, size_folder(out, bucket.data)
        black = encoders(torch.zeros(1, 1, data.height, data.width, 3, dtype=torch.uint8), [""])
        write_description(
            folder,
            made_with(data, identity),
            {name: entry[0] for name, entry in black.items()},
            black["text"][0],
            encoders.runs_in,
        )
        failed: list[dict[str, Any]] = []
        for kind, indices in cached_samples(bucket.datasets, data).items():
            frames = data.num_frames if kind == "clips" else 1
            size = sum((1 if name == "text" else frames) * entry.nbytes for name, entry in black.items())
            todo = _Todo(Lookup.scan(folder, kind), indices, data.cuts or 1, shard_bytes // size)
            report.wanted += todo.wanted
            report.kept += todo.wanted - todo.absent
            with closing(_rows(indices, todo.numbers, data, batch)) as rows:
                for number, keys in todo.shards():
                    lost = encoders.shard(folder, kind, keys, rows, batch)
                    failed += lost
                    report.encoded += len(keys) - len(lost)
                    done(f"{kind} {bucket.name}", number, len(todo.numbers))
        write_failures(folder, launched_rank().rank, failed)
        write_lookups(folder)
        report.failed += failed
    return report


class _Todo:
    """The entries of one kind that a rank is to make: numbers int64 (n,), keys uint8 (n, 16)."""

    def __init__(self, lookup: Lookup, indices: Sequence[Index], cuts: int, per_shard: int) -> None:
        launched = launched_rank()
        self.wanted = cuts * sum(map(len, indices))
        per_shard = max(
            1, min(per_shard, -(-self.wanted // launched.world_size))
        )  # no rank is idle over a small dataset
        self._per_shard, self.absent, first = per_shard, 0, 0
        numbers, keys = [np.empty(0, np.int64)], [np.empty((0, 16), np.uint8)]
        for index in indices:
            for some, their_keys in lookup.absent(index, cuts):
                mine = (first + some) // per_shard % launched.world_size == launched.rank
                numbers.append(first + some[mine])
                keys.append(their_keys[mine])
                self.absent += len(some)
            first += cuts * len(index)
        self.numbers, self._keys = np.concatenate(numbers), np.concatenate(keys)

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """For each shard: how many entries are done with it, and its keys."""
        for start in range(0, len(self.numbers), self._per_shard):
            keys = self._keys[start : start + self._per_shard]
            yield start + len(keys), keys


class _Encoders:
    """Autoencoder and text encoder of a run, and entries from pixels and captions."""

    def __init__(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> None:
        pretrained, runs_in = config.pretrained_model_name_or_path, training_dtype(config)
        autoencoder = build_autoencoder(config.autoencoder, pretrained, config.latent_stride)
        text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, pretrained)
        self._autoencoder, self._text_encoder = autoencoder.to(device, runs_in), text_encoder.to(device)
        self._device, self._dtype, self._cuts = device, dtype, config.data.cuts or 1
        self.runs_in = str(runs_in).removeprefix("torch.")

    @torch.no_grad()
    def __call__(self, pixels: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """pixels uint8 (n, F, H, W, 3), n captions -> mean, std (n, F, C, h, w) and text (n, 1, L, D), on the CPU."""
        rows = pixels.shape[:2]
        mean, std = self._autoencoder.posterior(to_float(pixels.to(self._device).flatten(0, 1)))
        entries = {"mean": mean.unflatten(0, rows), "text": self._text_encoder(captions)[:, None]}
        if std is not None:
            entries["std"] = std.unflatten(0, rows)
        return {name: entry.to("cpu", self._dtype) for name, entry in entries.items()}

    def shard(self, folder: Path, kind: str, keys: np.ndarray, rows: Iterator[Row], batch: int) -> list[dict[str, Any]]:
        """Write the shard of the next len(keys) rows. Returns what could not be encoded."""
        good, parts, failed = [], [], []
        for some in _in_batches(rows, len(keys), batch):
            reasons = {place: row["dropped"][0]["reason"] for place, row in some if row["dropped"]}
            if readable := [(place, row) for place, row in some if place not in reasons]:
                pixels = torch.stack([row["pixels"] for _, row in readable])
                entries = self(pixels, [row["captions"][0] for _, row in readable])
                finite = torch.stack([entry.flatten(1).isfinite().all(1) for entry in entries.values()]).all(0)
                parts.append({name: entry[finite] for name, entry in entries.items()})
                good += [place for (place, _), fine in zip(readable, finite.tolist(), strict=True) if fine]
                lost = {place for place, _ in readable} - set(good)
                reasons |= {place: f"its features are past the range of {self._dtype} (--dtype)" for place in lost}
            failed += [
                dict(entry=keys[i].tobytes().hex(), key=r["keys"][0], cut=r["position"] % self._cuts, reason=reasons[i])
                for i, r in some
                if i in reasons
            ]
        if good:
            write_shard(folder, kind, keys[good], {name: torch.cat([p[name] for p in parts]) for name in parts[0]})
        return failed


def _rows(indices: Sequence[Index], numbers: np.ndarray, data: DataConfig, ahead: int) -> Generator[Row]:
    """The rows of some entries. The arrays of a row are valid until the next one is asked for."""
    dataset = CutRows(indices, data)
    if not data.num_workers:
        yield from map(dataset.row, numbers.tolist())
    elif len(numbers):
        workers = Workers(dataset, iter(numbers.tolist()), data.num_workers, ahead=ahead, timeout=data.timeout)
        with closing(workers) as rows:
            yield from rows


def _in_batches(rows: Iterator[Row], count: int, size: int) -> Iterator[list[tuple[int, Row]]]:
    """The next `count` rows with their numbers, `size` at a time; their arrays are copies."""
    some: list[tuple[int, Row]] = []
    for place, row in enumerate(islice(rows, count)):
        if "pixels" in row:
            row["pixels"] = row["pixels"].clone()
        some.append((place, row))
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
