"""The batches of a run, and those of its validation.

What a position holds depends on the datasets, the configuration and the seed only: not on ranks, processes, or where
the run was resumed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count

import torch

from ...config.data import DataConfig, DatasetConfig, DegradationConfig
from ..cache.cache import Cache
from ..decoders.choice import choose_backend
from ..decoders.clip import Backend
from ..decoders.dali import DaliDecoder
from ..decoders.dali_rules import Device
from ..order.buckets import Buckets, load_buckets
from ..order.held_out import load_held_out
from .batches import Batch, Batches
from .bucket_rows import BucketRows
from .cores import worker_count
from .cuts import cached_samples
from .decoded import DecodedBatches
from .rows import ClipRows, Row
from .share import Share
from .workers import Workers

log = logging.getLogger("lavie")

CPU = torch.device("cpu")
DALI_DEVICES: dict[Backend, Device | None] = {"pyav": None, "dali-cpu": "cpu", "dali-gpu": "gpu"}
"""Where DALI decodes, by the backend."""


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
    """Return an endless iterator over one rank's micro-batches, in the order of the steps from `start_step` on.

    Each step gives share.gradient_accumulation_steps of them. Rows are made in `worker_count` processes, two
    micro-batches ahead in each; with 0, in this one.

    Args:
        data: the configuration.
        train: the datasets, or what `load_buckets` has made of them with the seed of `share`.
        share: the part of the run to read.
        start_step: the first step to give, from 0.
        degradation: how the clips' low resolution is made, if batches are to have it.
        caches: for each size's name, the cache whose entries batches hold in place of pixels; None for pixels.
        device: where the run trains. DALI decodes there, if data.decoder chooses it.

    Raises:
        DataError: if the datasets, or a cache, cannot serve the configuration.
        ConfigError: if the decoder cannot.
    """
    # The decoder: cached batches need none, and images are decoded by PIL.
    backend: Backend = "pyav"
    if not caches and not data.images_alone:
        verified = data.verify == "always"
        backend, why = choose_backend(
            data.decoder, device, degraded=degradation is not None, verified=verified, resampler=data.resampler
        )
        log.info("data: clips are decoded by %s: %s", backend, why)

    # The datasets, sorted by size: a cache must have all that the run can take.
    buckets = train if isinstance(train, Buckets) else load_buckets(data, train, share.seed)
    if caches:
        for bucket in buckets.all:
            caches[bucket.name].require(cached_samples(bucket.datasets, bucket.data), bucket.data)

    # The rows, and the processes that make them.
    rows_of = partial(BucketRows, buckets, share.seed, caches, global_batch=share.global_batch, degradation=degradation)
    rows = rows_of(dali=DALI_DEVICES[backend])
    positions = chain.from_iterable(map(share.positions, count(start_step)))
    made: Iterator[Row]
    if workers := worker_count(data):
        ahead = 2 * share.train_batch_size
        made = Workers(rows, positions, workers, ahead=ahead, timeout=data.timeout)
    else:
        made = map(rows.row, positions)

    # The batches: DALI decodes in this process, from whole batches, and PyAV mends what it fails at.
    batches = Batches(made, share.train_batch_size)
    if backend == "pyav":
        return batches

    def decoder(frames: int, height: int, width: int) -> DaliDecoder:
        """Return a decoder of clips of one size, of which a run of several buckets has several."""
        return DaliDecoder(frames, height, width, data.crop, device=device, batch_size=share.train_batch_size)

    return DecodedBatches(batches, decoder, rows_of(dali=None).row, device)


def fixed_batches(
    data: DataConfig,
    paths: Sequence[str | DatasetConfig],
    share: Share,
    *,
    num_batches: int,
    degradation: DegradationConfig | None = None,
) -> list[Batch]:
    """Return one rank's part of the first `num_batches` micro-batches of every rank, with centred crops.

    The result is the same on every call. It is for validation, on `data.held_out`: data.buckets play no part.
    """
    datasets, data = load_held_out(data, paths)
    whole = replace(share, gradient_accumulation_steps=num_batches)  # one step takes all of them
    rows = ClipRows(
        datasets,
        data,
        whole.seed,
        global_batch=whole.global_batch,
        centred=True,
        degradation=degradation,
    )
    return list(Batches(map(rows.row, whole.positions(0)), whole.train_batch_size))
