"""DALI's decoding of a sample beside PyAV's, in a child process with limits: DALI dies of some files."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch

from ...errors import DataError
from ..decoders.choice import disagreement, missing_dali, trial
from ..decoders.clip import PyAVDecoder
from ..decoders.dali import DaliDecoder
from ..decoders.dali_rules import Device, clip_for_dali, dali_serves
from ..prepare.sandbox import MEMORY, Sandbox
from ..shards.index_file import Sample

Outcome = Literal["agree", "disagree", "not compared"]
SECONDS = 120.0
"""Of processor time for a few frames by both decoders; DALI's start takes the most of it."""


class Comparison:
    """Compares the decoders on as many samples as it is called for; `close` ends its child."""

    def __init__(self) -> None:
        self._device: Device = "gpu" if torch.cuda.is_available() else "cpu"
        # CUDA reserves more addresses than there is memory.
        self._child = Sandbox(memory=-1 if self._device == "gpu" else MEMORY, prepare=try_out)
        self._refusal: str | None = None
        """Why nothing can be compared here; None before it was tried."""

    def __call__(
        self, sample: Sample, data: bytes, indices: Sequence[int], height: int, width: int
    ) -> tuple[Outcome, str]:
        """Whether both show the same frames at `indices`, scaled to height x width, within MEAN and EDGE; why not."""
        if refused := missing_dali() or dali_serves(sample, self._device) or self._tried():
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
        """End the child."""
        self._child.close()

    def _tried(self) -> str:
        if self._refusal is None:
            try:
                self._refusal = self._child.call(try_out, b"", seconds=SECONDS)
            except DataError as error:
                self._refusal = f"DALI does not run in a process with limits: {error}"
        return self._refusal


def difference(
    data: bytes, sample: dict[str, Any], indices: list[int], device: Device, height: int, width: int
) -> tuple[str, str]:
    """Why DALI must not have the sample, and how its frames differ from PyAV's; empty where neither is so."""
    clip = clip_for_dali(Sample(**sample), data, np.array(indices), 0.5, 0.5, device)
    if isinstance(clip, str):
        return clip, ""
    dali = DaliDecoder(len(indices), height, width, device=_torch(device), batch_size=1, num_threads=1)
    (ours,), (theirs,) = PyAVDecoder(height, width)([clip]), dali([clip])
    return "", disagreement(ours, theirs.cpu()) or ""


def try_out(data: bytes = b"") -> str:
    """Why DALI cannot be compared here, or nothing. Loads what it loads at first: the child can open no file later."""
    return trial(_torch("gpu" if torch.cuda.is_available() else "cpu")) or ""


def _torch(device: Device) -> torch.device:
    return torch.device("cuda" if device == "gpu" else "cpu")
