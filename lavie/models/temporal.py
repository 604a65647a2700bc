"""Temporal convolutions of the super-resolution network (paper, section 4.3): blocks that start as exact identities.

x is a folded batch (B * (video + images), C, H, W), channels last; temporal convolutions see the clips' memory as
(B, F, S, C). Images pass by.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TEMPORAL_GROUPS
from ..ops.pseudo3d_conv import pseudo3d_conv
from .resnet import Frames, GroupNorm, ResnetBlock

EPS = 1e-6
"""Of every norm here."""


class TemporalConv(nn.Conv3d):
    """A convolution over the frames at each position."""

    def __init__(self, channels: int, frames: int):
        super().__init__(channels, channels, (frames, 1, 1), padding=(frames // 2, 0, 0))

    def forward(self, x: Tensor, time: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """x (B, F, S, C), plus time (B, C) and residual (B, F, S, C) if given -> (B, F, S, C)."""
        return pseudo3d_conv(x, self.weight, self.bias, time=time, residual=residual)


class TemporalResnetBlock(nn.Module):
    """norm-SiLU-conv, plus the time embedding if it takes one, norm-SiLU-conv, plus the input; over time."""

    def __init__(self, channels: int, kernels: tuple[int, int], time_channels: int | None = None):
        super().__init__()
        self.norm1 = GroupNorm(TEMPORAL_GROUPS, channels, eps=EPS)
        self.conv1 = TemporalConv(channels, kernels[0])
        self.time_emb_proj = nn.Linear(time_channels, channels) if time_channels else None
        self.norm2 = GroupNorm(TEMPORAL_GROUPS, channels, eps=EPS)
        self.conv2 = TemporalConv(channels, kernels[1])

    def zero_init(self) -> "TemporalResnetBlock":
        """Make the block the exact identity."""
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)
        return self

    def forward(self, x: Tensor, frames: Frames, time: Tensor | None = None) -> Tensor:
        """x (B * F, C, H, W), time (B, T) if the block takes one."""
        if frames.images:
            clips, alone = frames.split(x)
            return frames.join(self(clips.flatten(0, 1), frames.clip, time).unflatten(0, clips.shape[:2]), alone)

        def positions(t: Tensor) -> Tensor:
            return t.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, frames.video))

        def images(t: Tensor) -> Tensor:
            return t.flatten(0, 1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

        if self.time_emb_proj is not None and time is not None:
            time = self.time_emb_proj(F.silu(time))
        h = self.conv1(positions(self.norm1(x, frames, silu=True)), time)
        h = self.norm2(images(h), frames, silu=True)
        return images(self.conv2(positions(h), residual=positions(x)))


class TemporalModule(nn.Module):
    """x + conv1x1(spatial block(temporal block(x))), the 1x1 convolution zero at the start."""

    def __init__(self, channels: int, time_channels: int):
        super().__init__()
        self.resblocks_3d_t = TemporalResnetBlock(channels, (5, 3), time_channels)
        self.resblocks_3d_s = ResnetBlock(channels, channels, time_channels, TEMPORAL_GROUPS, EPS)
        self.shift_conv = nn.Conv2d(channels, channels, 1)
        for parameter in self.shift_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """x (B * F, C, H, W), time (B, T)."""
        if frames.images:
            clips, alone = frames.split(x)
            return frames.join(self(clips.flatten(0, 1), time, frames.clip).unflatten(0, clips.shape[:2]), alone)
        h = self.resblocks_3d_t(x, frames, time)
        return x + self.shift_conv(self.resblocks_3d_s(h, time, frames))
