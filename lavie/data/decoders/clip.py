"""The types between the loader and a decoder of clips, and the decoder that is the reference.

There are three ways ("backends") from an encoded clip to the pixels that a network sees:

- pyav: FFmpeg in the worker processes, on the CPU. It reads everything that `media.decode` reads. It is the reference,
  and what training uses without DALI.
- dali-gpu: H.264, HEVC, VP8 and VP9 by the GPU's video decoder (NVDEC).
- dali-cpu: VP8 and VP9, the codecs that DALI decodes on a CPU. It is the same pipeline as dali-gpu, for tests and for
  machines without a GPU.

DALI runs in the process of the trainer, since worker processes should not share its GPU. The division of work:

1. A worker reads and verifies the sample and chooses the clip's frames and cut, whatever the backend.
2. If DALI can decode the clip exactly, the worker hands on an EncodedClip; if not, it decodes the clip itself, and
   hands on a DecodedClip that says why.
3. The decoder in the trainer turns the EncodedClips of a batch into pixels.

So the order of samples, resuming and spares do not depend on the decoder that runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from ...pixels import to_float
from ..media.clips import Crop, fit
from ..media.decode import read_frames

Backend = Literal["pyav", "dali-cpu", "dali-gpu"]
"""The way in which clips are decoded; the module's docstring describes each."""


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip before it is decoded: its file, and which frames and which part of them it shows."""

    key: str
    """The key of its sample."""
    data: bytes
    """The bytes of the media file, of which the clip is a part."""
    indices: np.ndarray
    """int64 (F,), ascending: the frames of the clip, counted from 0 in order of presentation."""
    height: int
    """Height of the source in pixels."""
    width: int
    """Width of the source in pixels."""
    bt709: bool
    """Whether colours are to be converted by the BT.709 matrix; else by that of BT.601."""
    u: float
    """Where frames are cut across, from 0 (left) to 1 (right), as for `clips.fit`."""
    v: float
    """Where frames are cut down, from 0 (top) to 1 (bottom), as for `clips.fit`."""


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip that its worker decoded, because DALI is not to have it. Its pixels are in the row that it came with."""

    key: str
    """The key of its sample."""
    reason: str
    """Why DALI is not to have it, as the end of a sentence about the clip."""


class Decoder(Protocol):
    """What decodes the clips of a micro-batch to the size that it was made for."""

    backend: Backend

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """Return the clips' pixels: float32 (len(clips), F, 3, H, W) in [-1, 1], RGB, on the decoder's device.

        Raises DataError if one of the clips cannot be decoded.
        """


class PyAVDecoder:
    """The reference decoder, on the CPU: every other one is measured by it."""

    backend: Backend = "pyav"

    def __init__(self, height: int, width: int, crop: Crop = "cover") -> None:
        self._height, self._width, self._crop = height, width, crop

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """Return the clips' pixels on the CPU, as Decoder describes them."""
        return to_float(torch.stack([self._pixels(clip) for clip in clips]))

    def _pixels(self, clip: EncodedClip) -> torch.Tensor:
        """Return the frames of a clip, cut and scaled: uint8 (F, H, W, 3)."""
        frames = read_frames(clip.data, clip.indices)
        return torch.from_numpy(fit(frames, self._height, self._width, clip.u, clip.v, self._crop))
