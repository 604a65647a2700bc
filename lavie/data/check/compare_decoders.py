"""The comparison of two decoders on one sample: DALI, which training may use, against PyAV, the reference.

Both run in a child process with limits, because DALI crashes on some damaged files.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ..decoders.choice import disagreement, missing_dali, trial
from ..decoders.clip import PyAVDecoder
from ..decoders.dali import DaliDecoder
from ..decoders.dali_rules import Device, clip_for_dali, dali_serves
from ..prepare.sandbox import MEMORY, Sandbox
from ..shards.index_file import Sample
from .report import Outcome

SECONDS = 120.0
"""Processor time that a comparison may take, in seconds; DALI's start takes the most of it."""


class Comparison:
    """A comparison that may be called for any number of samples; `close` ends its child process."""

    def __init__(self) -> None:
        self._device: Device = "gpu" if torch.cuda.is_available() else "cpu"
        # CUDA reserves more addresses than there is memory, so a limit of the address space would stop it.
        self._child = Sandbox(memory=-1 if self._device == "gpu" else MEMORY, prepare=try_dali)
        self._refusal: str | None = None
        """Why DALI cannot be used on this machine; empty if it can, None before the first trial."""

    def __call__(
        self, sample: Sample, data: bytes, indices: Sequence[int], height: int, width: int
    ) -> tuple[Outcome, str]:
        """Decode some frames of a video with DALI and with PyAV and compare them.

        Args:
            sample: the video, as the index describes it.
            data: its bytes.
            indices: the frames, ascending.
            height: pixels to which both decoders scale the frames.
            width: likewise.

        Returns:
            ("agree", "") if the frames differ by no more than `decoders.choice` allows; otherwise the outcome and the
            reason.
        """
        if refused := missing_dali() or dali_serves(sample, self._device) or self._machine_refusal():
            return "not compared", refused
        request = asdict(sample), [int(i) for i in indices], self._device, height, width
        try:
            refused, fault = self._child.call(difference, data, *request, seconds=SECONDS)
        except DataError as error:
            return "disagree", f"DALI fails: {error}"
        if refused:
            return "not compared", refused
        return ("disagree", f"DALI beside PyAV: {fault}") if fault else ("agree", "")

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def _machine_refusal(self) -> str:
        """Return why DALI cannot be used on this machine, or an empty text; DALI is tried at the first call only."""
        if self._refusal is None:
            try:
                self._refusal = self._child.call(try_dali, b"", seconds=SECONDS)
            except DataError as error:
                self._refusal = f"DALI does not run in a process with limits: {error}"
        return self._refusal


def difference(
    data: bytes, sample: dict[str, Any], indices: list[int], device: Device, height: int, width: int
) -> tuple[str, str]:
    """Decode the frames at `indices` with both decoders; runs in the child.

    Args:
        data: the bytes of a video.
        sample: the fields of its Sample, which travel as JSON.
        indices: ascending.
        device: on which DALI decodes.
        height: pixels to which frames are scaled.
        width: likewise.

    Returns:
        Two texts: why DALI must not be given the sample, and how its frames differ from PyAV's. Each is empty if there
        is nothing to say.
    """
    clip = clip_for_dali(Sample(**sample), data, np.array(indices), 0.5, 0.5, device)
    if isinstance(clip, str):
        return clip, ""
    dali = DaliDecoder(len(indices), height, width, device=_torch_device(device), batch_size=1, num_threads=1)
    (reference,), (frames,) = PyAVDecoder(height, width)([clip]), dali([clip])
    return "", disagreement(reference, frames.cpu()) or ""


def try_dali(data: bytes = b"") -> str:
    """Return why DALI cannot be used on this machine, or an empty text; runs in the child.

    The child calls it before it gives up the right to open files, so that DALI loads its libraries in time. `data` is
    not used: it is the first argument of everything that a sandbox runs.
    """
    return trial(_torch_device("gpu" if torch.cuda.is_available() else "cpu")) or ""


def _torch_device(device: Device) -> torch.device:
    return torch.device("cuda" if device == "gpu" else "cpu")
