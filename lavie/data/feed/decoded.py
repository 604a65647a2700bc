"""Batches whose clips a decoder behind the loader decodes, one batch ahead of training."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch

from ...errors import DataError
from ...pixels import to_float
from ..decoders.clip import DecodedClip, Decoder, EncodedClip
from .batches import Batch
from .rows import Row

log = logging.getLogger("lavie")

REPORT = 1000
"""Clips after which the counts of those that PyAV decoded are logged for the first time."""


class DecodedBatches(Iterator[Batch]):
    """The batches of a loader with their clips decoded in a thread, one batch ahead of the consumer.

    A batch comes with `clips`, and with `pixels` uint8 (B, F + N, H, W, 3) whose first F frames are set only where the
    clip is a DecodedClip. It leaves without `clips`, and with `pixels` float32 (B, F + N, 3, H, W) in [-1, 1] on the
    device.

    If the decoder fails on a batch, PyAV makes its rows again in this process, and a bad sample is replaced by a spare,
    as in a worker. So a failure of DALI costs time, never a sample, and what is fed does not depend on the decoder.

    Clips that PyAV decoded are counted by reason and logged:

    1. each reason at its first clip;
    2. the counts after REPORT clips, after twice as many, and so on;
    3. the counts at `close`.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        make_decoder: Callable[[int, int, int], Decoder],
        remake: Callable[[int], Row],
        device: torch.device,
    ) -> None:
        """Start the thread.

        Args:
            batches: what to decode; closed by `close`, if it can be.
            make_decoder: makes the decoder of a size (frames, height, width), which is kept.
            remake: returns the row at a global position, decoded by PyAV, or raises DataError.
            device: where `pixels` go.
        """
        self._batches, self._remake, self._device = batches, remake, device
        self._decoder = lru_cache(maxsize=None)(make_decoder)
        self.decoded = 0
        """Clips that the decoder decoded."""
        self.by_pyav: Counter[str] = Counter()
        """Clips that PyAV decoded, by reason."""
        self._report = REPORT
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._future: Future[Batch | None] | None = self._pool.submit(self._next)

    def __next__(self) -> Batch:
        if self._future is None:
            raise StopIteration
        batch = self._future.result()
        self._future = None if batch is None else self._pool.submit(self._next)
        if batch is None:
            raise StopIteration
        return batch

    def close(self) -> None:
        """End the thread, after the batch that it is at, and the processes behind it, and log the counts."""
        self._future = None
        self._pool.shutdown(cancel_futures=True)
        if close := getattr(self._batches, "close", None):
            close()
        self._log_counts()

    def _next(self) -> Batch | None:
        """Return the next batch, decoded, or None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None

        # What the workers decoded is counted before the decoder may fail on the others.
        clips = batch.pop("clips")
        for clip in clips:
            if isinstance(clip, DecodedClip):
                if not self.by_pyav[clip.reason]:
                    log.info("data: %s is decoded by PyAV: %s (said once for this reason)", clip.key, clip.reason)
                self.by_pyav[clip.reason] += 1

        # The frames to be decoded are nonsense until they are replaced.
        pixels = to_float(batch["pixels"].to(self._device, non_blocking=True))
        encoded = {row: clip for row, clip in enumerate(clips) if isinstance(clip, EncodedClip)}
        if encoded:
            self._decode(batch, pixels, encoded)
        batch["pixels"] = pixels

        if self.decoded + self.by_pyav.total() >= self._report:
            self._report *= 2
            self._log_counts()
        return batch

    def _decode(self, batch: Batch, pixels: torch.Tensor, encoded: dict[int, EncodedClip]) -> None:
        """Decode the clips of some rows, by row, into `pixels`, those of the batch that goes to the device."""
        clips = list(encoded.values())
        frames, (height, width) = len(clips[0].indices), pixels.shape[-2:]
        decoder = self._decoder(frames, height, width)
        try:
            decoded = decoder(clips)
        except DataError as error:
            keys = ", ".join(clip.key for clip in clips)
            log.warning("data: %s failed on a batch, PyAV decodes it (%s): %s", decoder.backend, keys, error)
            for row in encoded:
                self.by_pyav[f"{decoder.backend} failed on its batch"] += 1
                pixels[row] = self._remade(batch, row)
        else:
            for row, clip in zip(encoded, decoded, strict=True):
                pixels[row, :frames] = clip
            self.decoded += len(clips)

    def _remade(self, batch: Batch, row: int) -> torch.Tensor:
        """Make a row of a batch again: return its pixels on the device, and replace the rest in the batch."""
        position = int(batch["positions"][row])
        remade = self._remake(position)
        batch["captions"][row], batch["keys"][row] = remade["captions"], remade["keys"]
        other_dropped = [dropped for dropped in batch["dropped"] if dropped["position"] != position]
        batch["dropped"] = sorted(other_dropped + remade["dropped"], key=lambda dropped: dropped["position"])
        return to_float(remade["pixels"].to(self._device))

    def _log_counts(self) -> None:
        """Log how many clips PyAV decoded, and why."""
        total = self.decoded + self.by_pyav.total()
        reasons = "".join(f"; {count}: {reason}" for reason, count in self.by_pyav.most_common())
        log.info("data: %d of this rank's %d clips were decoded by PyAV%s", self.by_pyav.total(), total, reasons)
