"""What turns clips into features: I3D, and a user's own TorchScript module."""

import warnings
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...errors import CheckpointError, DataError
from ...files import sha256_of
from ..finite import require_numbers
from .i3d import FEWEST_FRAMES, I3D, SIDE


class Extractor(Protocol):
    """A network that gives each clip a row of features, or each frame one."""

    name: str
    """What it is, in the JSON of a result."""
    sha256: str
    """The hash of the file of its weights."""

    def __call__(self, clips: Tensor) -> Tensor:
        """(B, 3, F, h, w) in [-1, 1] -> (B, D), or (B * F, D) of frames; all finite."""
        ...

    def check(self, num_frames: int) -> None:
        """Raise DataError if clips of so many frames are too short."""
        ...


class I3DLogits:
    """The 400 logits of I3D, which FVD is defined on."""

    name = "i3d_k400_logits"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load the weights, a .safetensors file, onto a device."""
        self._source = f"--weights {weights}"
        self._network = I3D.load(weights).to(device)
        self.sha256 = sha256_of(weights)
        self._device = device

    def __call__(self, clips: Tensor) -> Tensor:
        """(B, 3, F, 224, 224) -> (B, 400), float32 on the CPU."""
        if clips.shape[-2:] != (SIDE, SIDE):
            raise DataError(
                f"the protocol's steps end in {clips.shape[-1]} x {clips.shape[-2]} pixels: I3D takes 224 x 224"
            )
        with torch.inference_mode():
            return require_numbers(self._network(clips.to(self._device)).float().cpu(), self._source)

    def check(self, num_frames: int) -> None:
        """Raise DataError below the nine frames that I3D needs."""
        if num_frames < FEWEST_FRAMES:
            raise DataError(f"clips of {num_frames} frames: I3D needs {FEWEST_FRAMES} or more (--frames)")


class Scripted:
    """A user's TorchScript module, which runs as code: of clips, or of frames one by one."""

    def __init__(self, path: Path, device: torch.device, frames: bool = False) -> None:
        """Load a module.

        Args:
            path: a file written by `torch.jit.save`.
            device: where it runs.
            frames: whether it takes frames, (N, 3, h, w), and not clips, (B, 3, F, h, w); both in [-1, 1].

        Raises:
            CheckpointError: the file is no such module.
        """
        self.name = "own_frames" if frames else "own_clips"
        self._frames, self._device, self._path = frames, device, path
        try:
            self.sha256 = sha256_of(path)
            with warnings.catch_warnings():
                # Modules that people have are TorchScript; torch says at every loading that others come after it.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._module = torch.jit.load(str(path), map_location=device).eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: no TorchScript module (torch.jit.save): {str(error).splitlines()[0]}"
            ) from None

    def __call__(self, clips: Tensor) -> Tensor:
        """(B, 3, F, h, w) -> (B, D), or (B * F, D) of frames; float32 on the CPU.

        Raises:
            CheckpointError: the module fails, or gives something else: no clip is to blame.
        """
        rows = len(clips)
        if self._frames:
            clips = clips.transpose(1, 2).flatten(0, 1)
            rows = len(clips)
        try:
            with torch.inference_mode():
                found = self._module(clips.to(self._device))
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{self._path} fails on {tuple(clips.shape)}: {last}") from None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != rows:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CheckpointError(f"{self._path} gave {got} for {tuple(clips.shape)}: wanted ({rows}, features)")
        return require_numbers(found.float().cpu(), str(self._path))

    def check(self, num_frames: int) -> None:
        """Take clips of any length: only the module knows."""
