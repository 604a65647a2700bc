"""The pseudo-3D residual block and the resamplers: 2-D convolutions over folded frames, channels last.

x is (B * (video + images), C, H, W) throughout, the clips of the batch before its images, so that both are contiguous;
`Frames` says how many frames each clip has, and how many images come with it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.group_norm_silu import group_norm_silu
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


class ResnetBlock(nn.Module):
    """A spatial residual block: norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input.

    Norms pool over a clip's frames.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int, eps: float = 1e-5):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to the output channels; time: (B, T), one timestep for a clip and its images."""
        h = self.conv1(self.norm1(x, frames, silu=True))
        time = self.time_emb_proj(F.silu(time))[:, None, :, None, None]
        if frames.images == 0:
            h = (h.unflatten(0, (-1, frames.video)) + time).flatten(0, 1)
        else:
            h = h + frames.join(time.expand(-1, frames.video, -1, -1, -1), time.expand(-1, frames.images, -1, -1, -1))
        h = self.conv2(self.norm2(h, frames, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


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
