"""The pseudo-3D residual block and the resamplers: 2-D convolutions over folded frames, channels last.

x is (B * (video + images), C, H, W) throughout, the clips of the batch before its images, so that both are contiguous;
`Frames` says how many frames each clip has, and how many images come with it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.group_norm_silu import group_norm_silu
from ..ops.residual_block import NormSettings, residual_block
from .backends import UsesKernels
from .frames import Frames

SINGLE = Frames(1, 0)
"""The grouping in which each frame stands by itself."""


class GroupNorm(UsesKernels, nn.GroupNorm):
    """GroupNorm over single frames, or pooled over the frames of a clip."""

    def forward(self, x: Tensor, frames: Frames = SINGLE, silu: bool = False) -> Tensor:
        """Normalise x (B * F, C, H, W), and apply SiLU if `silu`."""
        return group_norm_silu(
            x,
            self.weight,
            self.bias,
            groups=self.num_groups,
            eps=self.eps,
            frames=frames.video,
            images=frames.images,
            pool_images=frames.pool_images,
            silu=silu,
            backend=self.kernel_backend,
        )


class ResnetBlock(UsesKernels, nn.Module):
    """A spatial residual block: norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input.

    Norms pool over a clip's frames. One operation reads the weights of all layers, so under ZeRO-3 the block must be
    gathered as a whole.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int, eps: float = 1e-5):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor, frames: Frames, skip: Tensor | None = None) -> Tensor:
        """Map x (B * F, C, H, W) to the output channels.

        Args:
            x: the first of the input channels, or all.
            time: (B, T), SiLU of the embedding of the one timestep of a clip and its images.
            frames: how frames are folded.
            skip: the other input channels, of a skip connection, (B * F, C', H, W).
        """
        norm, shortcut = self.norm1, self.conv_shortcut
        return residual_block(
            x,
            skip,
            self.time_emb_proj(time),
            affine(norm),
            affine(self.conv1),
            affine(self.norm2),
            affine(self.conv2),
            None if shortcut is None else affine(shortcut),
            NormSettings(norm.num_groups, norm.eps, frames.video, frames.images, frames.pool_images),
            backend=self.kernel_backend,
        )


class Downsample(nn.Module):
    """A convolution that halves height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) to (N, C, H / 2, W / 2), odd sizes rounded up."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given height and width, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map x (N, C, H, W) to (N, C, *size)."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def affine(layer: nn.GroupNorm | nn.Conv2d | nn.Conv3d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer that has both, for an operation that reads them itself."""
    assert layer.bias is not None
    return layer.weight, layer.bias
