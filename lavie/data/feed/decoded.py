"""Batches whose clips are decoded one batch ahead, by the decoder that the run has chosen."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

from ...errors import DataError
from ...pixels import to_float
from ..decoders.clip import DecodedClip, Decoder, EncodedClip, log

REPORT = 1000
"""Clips after which the counts of those that PyAV decoded are logged for the first time."""


class DecodedBatches(Iterator[Any]):
    """The batches of a loader with their clips decoded, one batch ahead of the consumer, in a thread.

    A batch comes with `clips`, B of EncodedClip or DecodedClip, and `pixels`, uint8 (B, F + N, H, W, 3), whose first F
    frames are set where the clip is decoded. It leaves without `clips`; `pixels` are float32 (B, F + N, 3, H, W) in
    [-1, 1], on `device`. `decoder(F, H, W)` makes the decoder of a size, which is kept.

    If a decoder fails on a batch, its rows are made again by `remake(position)`, which decodes with PyAV in this
    process and replaces a bad sample by a spare, as a worker does: `Row` or DataError. So DALI's failure costs time,
    never a sample, and what is fed does not depend on the decoder. What PyAV decoded is counted by reason and logged:
    each reason at its first clip, the counts after REPORT clips, twice as many, and so on, and by `close`.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        decoder: Callable[[int, int, int], Decoder],
        remake: Callable[[int], Any],
        device: torch.device,
    ) -> None:
        self._batches, self._remake, self._device = batches, remake, device
        self._decoder = lru_cache(maxsize=None)(decoder)
        self.decoded = 0
        """Clips that the decoder decoded."""
        self.by_pyav: Counter[str] = Counter()
        """Clips that PyAV decoded, by reason."""
        self._report = REPORT
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._coming: Future[Any] | None = self._pool.submit(self._next)

    def __next__(self) -> Any:
        if self._coming is None:
            raise StopIteration
        batch = self._coming.result()
        self._coming = None if batch is None else self._pool.submit(self._next)
        if batch is None:
            raise StopIteration
        return batch

    def close(self) -> None:
        """End the thread, after the batch that it is at, and the processes behind it, and log the counts."""
        self._coming = None
        self._pool.shutdown(cancel_futures=True)
        if close := getattr(self._batches, "close", None):
            close()
        self._log_counts()

    def _next(self) -> Any:
        """The next batch, decoded, or None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        clips = batch.pop("clips")
        for clip in clips:
            if isinstance(clip, DecodedClip):
                self._count(clip.key, clip.reason)
        # Rows whose clip is still to come hold whatever the memory held there.
        pixels = to_float(batch["pixels"].to(self._device, non_blocking=True))
        places = [i for i, clip in enumerate(clips) if isinstance(clip, EncodedClip)]
        if places:
            encoded = [clips[i] for i in places]
            frames, size = len(encoded[0].indices), batch["pixels"].shape[2:4]
            decoder = self._decoder(frames, *size)
            try:
                decoded = decoder(encoded)
                for i, clip in zip(places, decoded, strict=True):
                    pixels[i, :frames] = clip
                self.decoded += len(places)
            except DataError as error:
                keys = ", ".join(clip.key for clip in encoded)
                log.warning("data: %s failed on a batch, PyAV decodes it (%s): %s", decoder.backend, keys, error)
                for i in places:
                    self._count(clips[i].key, f"{decoder.backend} failed on its batch", told=True)
                    pixels[i] = self._remade(batch, i)
        batch["pixels"] = pixels
        if self.decoded + self.by_pyav.total() >= self._report:
            self._report *= 2
            self._log_counts()
        return batch

    def _remade(self, batch: Any, i: int) -> torch.Tensor:
        """Row i of a batch made again: its pixels are returned, the rest is put in place."""
        position = int(batch["positions"][i])
        row = self._remake(position)
        if isinstance(row, DataError):
            raise row
        batch["captions"][i], batch["keys"][i] = row["captions"], row["keys"]
        others = [d for d in batch["dropped"] if d["position"] != position]
        batch["dropped"] = sorted(others + row["dropped"], key=lambda d: d["position"])
        return to_float(row["pixels"].to(self._device))

    def _count(self, key: str, reason: str, told: bool = False) -> None:
        if not told and not self.by_pyav[reason]:
            log.info("data: %s is decoded by PyAV: %s (said once for this reason)", key, reason)
        self.by_pyav[reason] += 1

    def _log_counts(self) -> None:
        total = self.decoded + self.by_pyav.total()
        reasons = "".join(f"; {count}: {reason}" for reason, count in self.by_pyav.most_common())
        log.info("data: %d of this rank's %d clips were decoded by PyAV%s", self.by_pyav.total(), total, reasons)
