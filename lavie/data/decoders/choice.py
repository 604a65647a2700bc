"""Choose the decoder of a run, and say why: the policy behind data.decoder."""

import ctypes
import importlib.util
from typing import Literal

import numpy as np
import torch

from ...errors import ConfigError, DataError
from ..media.encode import encode_mp4, encode_vp9
from .clip import Backend, EncodedClip, PyAVDecoder
from .dali import DaliDecoder

Wanted = Literal["auto", "pyav", "dali"]
"""The values of data.decoder."""

MEAN, EDGE = 2.5, 48.0
"""How far DALI's pixels may be from PyAV's, in levels of 255: on average over a clip, and for a single value. On the
CPU they are equal before scaling, and within 0.5 and 16 after it. The rest is room for GPUs, whose conversion to RGB
repeats a chroma sample where PyAV interpolates."""


def choose_backend(
    wanted: Wanted, device: torch.device, *, degraded: bool = False, verified: bool = True, resampler: str = "pillow-1"
) -> tuple[Backend, str]:
    """Return the backend for data.decoder on the trainer's device, and why it is chosen.

    1. `pyav` is taken as asked for.
    2. `auto` takes DALI only on a GPU, and where nothing speaks against it; else PyAV.
    3. `dali` takes DALI where nothing speaks against it. Without a GPU it serves VP8 and VP9 on the CPU.

    What speaks against DALI: it is not installed; batches need the clip's low resolution; the bytes are not verified;
    frames are to be scaled in a way that only PyAV's have; or the device is a GPU that has no video decoder, or on
    which DALI shows a small test clip otherwise than PyAV.

    Args:
        wanted: data.decoder.
        device: of the trainer.
        degraded: whether batches also hold the clip in low resolution, which workers make from decoded pixels.
        verified: whether every sample's bytes are compared with their hash. DALI runs in the trainer's process and dies
            of some damaged files, so it is given only bytes that were decoded in full when they were indexed.
        resampler: data.resampler.

    Raises:
        ConfigError: if `wanted` is dali, and something speaks against it.
    """
    gpu = device.type == "cuda"
    if wanted == "pyav":
        return "pyav", "asked for"
    if wanted == "auto" and not gpu:
        return "pyav", "no GPU"

    # The cheap questions come first: the trial decodes a clip, and needs all that they ask for.
    reason = missing_dali()
    if not reason and degraded:
        reason = "the low resolution of this stage is made by the workers, from decoded pixels"
    if not reason and not verified:
        reason = "DALI is given verified bytes only, and data.verify is not always"
    if not reason and resampler != "pillow-1":
        reason = f"data.resampler is {resampler}, which is a way of PyAV's frames alone"
    if not reason and gpu:
        reason = _missing_nvdec() or trial(device)

    if reason and wanted == "dali":
        raise ConfigError(f"data.decoder is dali: {reason}. Set data.decoder to auto or pyav")
    if reason:
        return "pyav", reason
    if gpu:
        return "dali-gpu", "a GPU with a video decoder, and DALI is installed" if wanted == "auto" else "asked for"
    return "dali-cpu", "asked for; without a GPU DALI decodes VP8 and VP9, PyAV the rest"


def missing_dali() -> str | None:
    """Return that DALI is not installed, and what to install; None if it is. DALI itself is not imported."""
    try:
        found = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:  # there is no package `nvidia` at all
        found = None
    return None if found else "DALI is not installed: pip install 'lavie[dali]', or nvidia-dali-cuda120 for CUDA 12"


def _missing_nvdec() -> str | None:
    """Return that the driver's video decoder cannot be loaded, and what to do; None if it can."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return (
            "the driver's video decoder library libnvcuvid.so.1 is not there: install the driver with it, or start the "
            "container with NVIDIA_DRIVER_CAPABILITIES=all"
        )
    return None


def trial(device: torch.device) -> str | None:
    """Decode a small rendered clip by DALI and by PyAV, and return why not to use DALI on `device`; None if they agree.

    DALI fails the trial if it raises an error, or its pixels disagree with PyAV's.
    """
    y, x = np.mgrid[:192, :256]
    frames = np.stack([128 + 80 * np.sin(x / 19 + y / 13 + i / 3) for i in range(12)])
    pixels = np.repeat(frames[..., None], 3, axis=-1).astype(np.uint8)
    data = encode_mp4(pixels, 24) if device.type == "cuda" else encode_vp9(pixels, 24)
    clip = EncodedClip("trial", data, np.array([0, 5, 11]), 192, 256, bt709=False, u=0.5, v=0.5)
    try:
        (reference,) = PyAVDecoder(96, 128)([clip])
        (found,) = DaliDecoder(3, 96, 128, device=device, batch_size=1)([clip])
    except (DataError, ImportError, OSError) as error:
        return f"it fails on a test clip: {error}"
    fault = disagreement(reference, found.cpu())
    return f"on a test clip, {fault}" if fault else None


def disagreement(reference: torch.Tensor, found: torch.Tensor) -> str | None:
    """Return how two decodings differ by more than MEAN or EDGE; None if they do not.

    Both are float tensors of one shape, with pixels in [-1, 1].
    """
    differences = (reference - found).abs() * 127.5
    mean, most = differences.mean().item(), differences.max().item()
    if mean <= MEAN and most <= EDGE:
        return None
    return f"pixels differ by {mean:.1f} of 255 on average and {most:.0f} at most: wanted {MEAN:g} and {EDGE:g}"
