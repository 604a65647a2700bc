"""From encoded clips to the pixels that a network sees: one interface, three ways to decode.

    pyav       everything that `decode` reads, on the CPU: the reference, and what training uses without DALI
    dali-gpu   H.264, HEVC, VP8 and VP9 by the GPU's video decoder (NVDEC)
    dali-cpu   VP8 and VP9, the codecs that DALI decodes on a CPU: the same pipeline, for tests and machines without GPU

DALI runs in the trainer's process, since a GPU is not to be shared among loader workers. The workers read, verify and
choose the frames and the cut, as always, and hand over an EncodedClip; what DALI cannot decode exactly they decode
themselves (a DecodedClip). Order, resume and spares are thus the stream's own, whichever decoder runs.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from ...pixels import to_float
from ..media.clips import Crop, fit
from ..media.decode import read_frames

log = logging.getLogger("lavie")

Backend = Literal["pyav", "dali-cpu", "dali-gpu"]


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip before its pixels exist."""

    key: str
    data: bytes
    """The bytes of the media file, of which the clip is a part."""
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
        return to_float(torch.stack([self._pixels(clip) for clip in clips]))

    def _pixels(self, clip: EncodedClip) -> torch.Tensor:
        frames = read_frames(clip.data, clip.indices)
        return torch.from_numpy(fit(frames, self._height, self._width, clip.u, clip.v, self._crop))
