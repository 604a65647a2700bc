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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from ..errors import ConfigError, DataError
from .clips import Crop, fit
from .decode import read_frames

log = logging.getLogger("lavie")

Backend = Literal["pyav", "dali-cpu", "dali-gpu"]
Wanted = Literal["auto", "pyav", "dali"]


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip before its pixels exist."""

    key: str
    data: bytes
    """The media file."""
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
    pixels: torch.Tensor
    """uint8 (F, H, W, 3), RGB."""
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


def choose_backend(wanted: Wanted, device: torch.device, degraded: bool = False) -> tuple[Backend, str]:
    """The backend for data.decoder and the trainer's device, and why.

    degraded: whether batches also hold the clip in low resolution, which workers make from its pixels. `auto` takes
    DALI only on a GPU whose video decoder is there; asked for by name, it must be installed, and serves VP8 and VP9 on
    a CPU. Raises ConfigError if DALI was asked for and cannot serve.
    """
    missing = _missing_dali()
    needs_pixels = "the low resolution of this stage is made by the workers, from decoded pixels"
    if wanted == "dali":
        if missing or degraded:
            raise ConfigError(f"data.decoder is dali: {missing or needs_pixels}. Set data.decoder to auto or pyav")
        if device.type != "cuda":
            return "dali-cpu", "asked for; without a GPU DALI decodes VP8 and VP9, PyAV the rest"
        if fault := _missing_nvdec():
            raise ConfigError(f"data.decoder is dali: {fault}. Set data.decoder to auto or pyav")
        return "dali-gpu", "asked for"
    if wanted == "pyav":
        return "pyav", "asked for"
    if device.type != "cuda":
        return "pyav", "no GPU"
    reason = missing or (needs_pixels if degraded else None) or _missing_nvdec()
    return ("pyav", reason) if reason else ("dali-gpu", "a GPU with a video decoder, and DALI is installed")


def decoded_ahead(
    batches: Iterator[Any], decoder: Decoder, remake: Callable[[int], Any], device: torch.device
) -> Iterator[Any]:
    """The batches of a loader with their clips decoded, one batch ahead of the consumer, in a thread.

    A batch comes with `clips`, B of EncodedClip or DecodedClip, and `pixels`, uint8 (B, N, H, W, 3), the images alone.
    It leaves without `clips`; `pixels` are float32 (B, F + N, 3, H, W) in [-1, 1], on `device`.

    If a decoder fails on a batch, its rows are made again by `remake(position)`, which decodes with PyAV in this
    process and replaces a bad sample by a spare, as a worker does: `Row` or DataError. So DALI's failure costs time,
    never a sample, and what is fed does not depend on the decoder.
    """
    told: set[str] = set()

    def decoded() -> Any:
        batch = next(batches, None)
        if batch is not None:
            for clip in batch["clips"]:
                if isinstance(clip, DecodedClip) and clip.reason not in told:
                    told.add(clip.reason)
                    log.info("data: %s is decoded by PyAV: %s (said once for this reason)", clip.key, clip.reason)
            _decode(batch, decoder, remake, device)
        return batch

    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        coming = pool.submit(decoded)
        while (batch := coming.result()) is not None:
            coming = pool.submit(decoded)
            yield batch


def _decode(batch: Any, decoder: Decoder, remake: Callable[[int], Any], device: torch.device) -> None:
    clips = batch.pop("clips")
    images = normalised(batch["pixels"].to(device, non_blocking=True))
    places = [i for i, clip in enumerate(clips) if isinstance(clip, EncodedClip)]
    rows: dict[int, torch.Tensor] = {
        i: torch.cat([normalised(clip.pixels.to(device)), images[i]])
        for i, clip in enumerate(clips)
        if isinstance(clip, DecodedClip)
    }
    try:
        if places:
            for i, pixels in zip(places, decoder([clips[i] for i in places]), strict=True):
                rows[i] = torch.cat([pixels.to(device), images[i]])
    except DataError as error:
        keys = ", ".join(clips[i].key for i in places)
        log.warning("data: %s failed on a batch, PyAV decodes it (%s): %s", decoder.backend, keys, error)
        for i in places:
            rows[i] = _remade(batch, i, remake, device)
    batch["pixels"] = torch.stack([rows[i] for i in range(len(clips))])


def _remade(batch: Any, i: int, remake: Callable[[int], Any], device: torch.device) -> torch.Tensor:
    """Row i of a batch made again: its pixels are returned, the rest is put in place."""
    position = int(batch["positions"][i])
    row = remake(position)
    if isinstance(row, DataError):
        raise row
    batch["captions"][i], batch["keys"][i] = row["captions"], row["keys"]
    batch["dropped"] = [d for d in batch["dropped"] if d["position"] != position] + row["dropped"]
    return normalised(row["pixels"].to(device))


def _missing_dali() -> str | None:
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
