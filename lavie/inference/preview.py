"""A look at latents without the autoencoder: a matrix from latents to colours, fitted by least squares.

Each latent becomes one pixel, the mean colour of the pixels that it stands for. That is enough to see, between two
denoising steps, what a clip is about to show.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.base import Strict
from ..config.load import validate
from ..errors import CheckpointError, ConfigError
from ..models.autoencoder import Autoencoder
from ..pixels import to_uint8
from ..seeds import torch_generator
from .video_io import write_png

PREVIEW = "preview.json"
"""The file of an exported folder that holds the matrix."""
PICTURE = "preview.png"
"""The picture beside samples that are being drawn, which each denoising step replaces."""
FITTED, HELD_OUT = 24, 8
"""Pictures from which the matrix is fitted, and those by which it is judged."""
SIDE = 16
"""Latents along both sides of such a picture."""
SHOWN = 4
"""Frames of a clip that the picture shows, evenly spaced."""
SMALLEST = 96
"""Pixels to which the shorter side of a frame is enlarged at least, by a whole factor."""


class Content(Strict):
    """What the file PREVIEW holds."""

    matrix: tuple[tuple[float, float, float], ...]
    """For each channel of the latents what it adds to red, green and blue, in [-1, 1]."""
    bias: tuple[float, float, float]
    """The colour of latents that are zero."""
    r2: float
    """The share of the colours' variance that the fit explains, on pictures that it was not fitted to."""


@dataclass(frozen=True)
class Preview:
    """The colours of latents."""

    matrix: Tensor
    """float32 (C, 3), from latents to colours in [-1, 1]."""
    bias: Tensor
    """float32 (3,)."""
    r2: float
    """As in `Content`."""

    def frames(self, latents: Tensor) -> np.ndarray:
        """Return a pixel for each latent: (C, F, h, w) -> uint8 (F, h, w, 3)."""
        colours = torch.einsum("cfhw,cd->fdhw", latents.detach().float().cpu(), self.matrix)
        return to_uint8((colours + self.bias[:, None, None]).nan_to_num()).numpy()

    def picture(self, latents: Tensor) -> np.ndarray:
        """Return some frames of the clip (C, F, h, w) beside one another, enlarged, as uint8 (H, W, 3)."""
        frames = self.frames(latents)
        chosen = frames[np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)]
        factor = max(1, -(-SMALLEST // min(chosen.shape[1:3])))
        return np.concatenate(list(chosen.repeat(factor, 1).repeat(factor, 2)), axis=1)

    def save(self, path: Path) -> None:
        """Write the file PREVIEW."""
        matrix, bias = self.matrix.tolist(), self.bias.tolist()
        path.write_text(json.dumps({"matrix": matrix, "bias": bias, "r2": self.r2}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, channels: int) -> "Preview":
        """Read the file PREVIEW of an autoencoder with so many channels.

        Raises:
            CheckpointError: it cannot be read, or is of another autoencoder.
        """
        try:
            content = validate(Content, json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}; delete it, and it is fitted anew") from None
        if len(content.matrix) != channels:
            raise CheckpointError(
                f"{path}: it is of latents with {len(content.matrix)} channels, the autoencoder has {channels}: delete "
                "it, and it is fitted anew"
            )
        return cls(torch.tensor(content.matrix), torch.tensor(content.bias), content.r2)


def fit_preview(autoencoder: Autoencoder, device: torch.device | str = "cpu") -> Preview:
    """Fit the colours of an autoencoder's latents to pictures of smooth noise and rectangles, the same at every call.

    Args:
        autoencoder: on `device`.
        device: where it runs.

    Raises:
        CheckpointError: its latents are not finite.
    """
    stride = autoencoder.stride
    pixels = _pictures(FITTED + HELD_OUT, SIDE * stride)
    latents = torch.cat([autoencoder.encode(picture.to(device)).float().cpu() for picture in pixels.split(4)])
    if not bool(latents.isfinite().all()):
        raise CheckpointError(
            "the autoencoder makes latents that are not finite: its weights are damaged: give another"
        )
    colours = F.avg_pool2d(pixels, stride)

    # A row for each latent, and a column of ones for the bias; in float64, on the CPU.
    rows = latents.permute(0, 2, 3, 1).double()
    rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
    wanted = colours.permute(0, 2, 3, 1).double()
    solution = torch.linalg.lstsq(rows[:FITTED].flatten(0, 2), wanted[:FITTED].flatten(0, 2), driver="gelsd").solution

    missed = (rows[FITTED:] @ solution - wanted[FITTED:]).square().sum()
    spread = (wanted[FITTED:] - wanted[FITTED:].mean((0, 1, 2))).square().sum()
    return Preview(solution[:-1].float(), solution[-1].float(), float(1 - missed / spread))


def _pictures(count: int, side: int) -> Tensor:
    """Return pictures float32 (count, 3, side, side) in [-1, 1]: waves of all lengths, as scenes have, and edges."""
    generator = torch_generator(0, "preview")
    pictures = torch.zeros(count, 3, side, side)
    cells = 2
    while cells <= side:
        waves = torch.randn(count, 3, cells, cells, generator=generator)
        # Three quarters of a wave are grey, as colours of scenes go together; longer waves are stronger.
        waves = (0.75 * waves.mean(1, keepdim=True) * 3**0.5 + 0.66 * waves) / cells**0.5
        pictures += F.interpolate(waves, size=(side, side), mode="bilinear", align_corners=False)
        cells *= 2
    for picture in pictures:
        for _ in range(3):
            top, left, height, width = torch.randint(1, side // 2 + 1, (4,), generator=generator).tolist()
            colour = 2 * torch.rand(3, 1, 1, generator=generator) - 1
            picture[:, top : top + height, left : left + width] = colour
    return pictures.clamp(-1, 1)


class PreviewFile:
    """The picture of a clip that is being drawn, replaced at each denoising step and gone when all are drawn."""

    def __init__(self, folder: Path, preview: Preview) -> None:
        """Take the folder of the samples, in which PICTURE is to lie, and the colours of the latents."""
        self.path, self.preview = folder / PICTURE, preview

    def __call__(self, latents: Tensor) -> None:
        """Show the first clip of latents (B, C, F, h, w)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_png(self.path, self.preview.picture(latents[0]))

    def remove(self) -> None:
        """Delete the picture."""
        self.path.unlink(missing_ok=True)
