"""Which decoder a run uses, and why: the policy behind data.decoder."""

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


MEAN, EDGE = 2.5, 48.0
"""How far DALI's pixels may be from PyAV's, in levels of 255, on average over a clip and for one value. On the CPU they
are equal before they are scaled, and within 0.5 and 16 after. The rest is room for GPUs, whose conversion repeats a
chroma sample where PyAV interpolates."""


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
        reason = _missing_nvdec() or trial(device)
    if reason and wanted == "dali":
        raise ConfigError(f"data.decoder is dali: {reason}. Set data.decoder to auto or pyav")
    if reason:
        return "pyav", reason
    if gpu:
        return "dali-gpu", "a GPU with a video decoder, and DALI is installed" if wanted == "auto" else "asked for"
    return "dali-cpu", "asked for; without a GPU DALI decodes VP8 and VP9, PyAV the rest"


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


def trial(device: torch.device) -> str | None:
    """Decode a small rendered clip by DALI and PyAV: why DALI is not to be used on `device`; None if they agree."""
    y, x = np.mgrid[:192, :256]
    frames = np.stack([128 + 80 * np.sin(x / 19 + y / 13 + i / 3) for i in range(12)])
    pixels = np.repeat(frames[..., None], 3, axis=-1).astype(np.uint8)
    data = encode_mp4(pixels, 24) if device.type == "cuda" else encode_vp9(pixels, 24)
    clip = EncodedClip("trial", data, np.array([0, 5, 11]), 192, 256, bt709=False, u=0.5, v=0.5)
    try:
        (ours,) = PyAVDecoder(96, 128)([clip])
        (theirs,) = DaliDecoder(3, 96, 128, device=device, batch_size=1)([clip])
    except (DataError, ImportError, OSError) as error:
        return f"it fails on a test clip: {error}"
    fault = disagreement(ours, theirs.cpu())
    return f"on a test clip, {fault}" if fault else None


def disagreement(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    """How two decodings, float of one shape in [-1, 1], are further apart than MEAN and EDGE; None if they are not."""
    apart = (ours - theirs).abs() * 127.5
    mean, most = apart.mean().item(), apart.max().item()
    if mean <= MEAN and most <= EDGE:
        return None
    return f"pixels differ by {mean:.1f} of 255 on average and {most:.0f} at most: wanted {MEAN:g} and {EDGE:g}"
