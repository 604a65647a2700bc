"""From encoded clips to the pixels that a network sees: one interface, three ways to decode.

    pyav       everything that `decode` reads, on the CPU: the reference, and what training uses without DALI
    dali-gpu   H.264, HEVC, VP8 and VP9 by the GPU's video decoder (NVDEC)
    dali-cpu   VP8 and VP9, the codecs that DALI decodes on a CPU: the same pipeline, for tests and machines without GPU

DALI runs in the trainer's process, since a GPU is not to be shared among loader workers. The workers read, verify and
choose the frames and the cut, as always, and hand over an EncodedClip; what DALI cannot decode exactly they decode
themselves (a DecodedClip). Order, resume and spares are thus the stream's own, whichever decoder runs.
"""

import ctypes
import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch

from ..errors import ConfigError, DataError
from .clips import Crop, fit
from .decode import read_frames

log = logging.getLogger("lavie")

Backend = Literal["pyav", "dali-cpu", "dali-gpu"]
Wanted = Literal["auto", "pyav", "dali"]

MEAN, EDGE = 2.5, 48.0
"""How far DALI's pixels may be from PyAV's, in levels of 255, on average over a clip and for one value. On the CPU they
are equal before they are scaled, and within 0.5 and 16 after. The rest is room for GPUs, whose conversion repeats a
chroma sample where PyAV interpolates."""
REPORT = 1000
"""Clips after which the counts of those that PyAV decoded are logged for the first time."""


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip before its pixels exist."""

    key: str
    data: bytes
    """The media file; empty while a row is on its way, which has it beside."""
    indices: np.ndarray
    """int64 (F,), ascending: its frames, counted in order of presentation."""
    height: int
    width: int
    """Of the source, in pixels."""
    bt709: bool
    """Whether its colours are to be converted by the BT.709 matrix; else BT.601's."""
    u: float
    v: float
    """Where it is cut, in [0, 1]: see `clips.fit`."""


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip that its worker decoded, because DALI does not serve it."""

    key: str
    reason: str
    """Why DALI does not."""


class Decoder(Protocol):
    """Decodes the clips of a micro-batch to the size it was made for."""

    backend: Backend

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """float32 (len(clips), F, 3, H, W) in [-1, 1], RGB, on the decoder's device.

        Raises DataError if one of them cannot be decoded.
        """


class PyAVDecoder:
    """The reference."""

    backend: Backend = "pyav"

    def __init__(self, height: int, width: int, crop: Crop = "cover") -> None:
        self._height, self._width, self._crop = height, width, crop

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """See Decoder; float32 on the CPU."""
        return normalised(torch.stack([self._pixels(clip) for clip in clips]))

    def _pixels(self, clip: EncodedClip) -> torch.Tensor:
        frames = read_frames(clip.data, clip.indices)
        return torch.from_numpy(fit(frames, self._height, self._width, clip.u, clip.v, self._crop))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1], on the same device."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1


def choose_backend(
    wanted: Wanted, device: torch.device, *, degraded: bool = False, verified: bool = True
) -> tuple[Backend, str]:
    """The backend for data.decoder and the trainer's device, and why.

    degraded: whether batches also hold the clip in low resolution, which workers make from its pixels. verified:
    whether every sample is compared with its hash: DALI runs in the trainer's process, and dies of some damaged files,
    so it gets the bytes that were decoded in full when they were indexed. `auto` takes DALI only on a GPU whose video
    decoder is there and shows a small clip as PyAV does; asked for by name, it must be installed, and serves VP8 and
    VP9 on a CPU. Raises ConfigError if DALI was asked for and cannot serve.
    """
    gpu = device.type == "cuda"
    if wanted == "pyav":
        return "pyav", "asked for"
    if wanted == "auto" and not gpu:
        return "pyav", "no GPU"
    reason = missing_dali()
    if not reason and degraded:
        reason = "the low resolution of this stage is made by the workers, from decoded pixels"
    if not reason and not verified:
        reason = "DALI is given verified bytes only, and data.verify is not always"
    if not reason and gpu:
        reason = _missing_nvdec() or _differs(device)
    if reason and wanted == "dali":
        raise ConfigError(f"data.decoder is dali: {reason}. Set data.decoder to auto or pyav")
    if reason:
        return "pyav", reason
    if gpu:
        return "dali-gpu", "a GPU with a video decoder, and DALI is installed" if wanted == "auto" else "asked for"
    return "dali-cpu", "asked for; without a GPU DALI decodes VP8 and VP9, PyAV the rest"


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
        pixels = normalised(batch["pixels"].to(self._device, non_blocking=True))
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
        return normalised(row["pixels"].to(self._device))

    def _count(self, key: str, reason: str, told: bool = False) -> None:
        if not told and not self.by_pyav[reason]:
            log.info("data: %s is decoded by PyAV: %s (said once for this reason)", key, reason)
        self.by_pyav[reason] += 1

    def _log_counts(self) -> None:
        total = self.decoded + self.by_pyav.total()
        reasons = "".join(f"; {count}: {reason}" for reason, count in self.by_pyav.most_common())
        log.info("data: %d of this rank's %d clips were decoded by PyAV%s", self.by_pyav.total(), total, reasons)


def missing_dali() -> str | None:
    try:
        found = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:  # no package `nvidia` at all
        found = None
    return None if found else "DALI is not installed: pip install 'lavie[dali]', or nvidia-dali-cuda120 for CUDA 12"


def _missing_nvdec() -> str | None:
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return (
            "the driver's video decoder library libnvcuvid.so.1 is not there: install the driver with it, or start the "
            "container with NVIDIA_DRIVER_CAPABILITIES=all"
        )
    return None


def _differs(device: torch.device) -> str | None:
    from .dali import trial

    return trial(device)
