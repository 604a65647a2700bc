"""The pseudo-3D residual block and the resamplers: 2-D convolutions over folded frames, channels last.

x is (B * (video + images), C, H, W) throughout, the clips of the batch before its images, so that both are contiguous;
`Frames` says how many frames each clip has, and how many images come with it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.group_norm_silu import group_norm_silu


class Frames(NamedTuple):
    """What a folded joint batch holds: B clips of `video` frames, then `images` independent images for each."""

    video: int
    images: int
    pool_images: bool = False
    """Whether images share the GroupNorm statistics of their clip."""

    @property
    def total(self) -> int:
        return self.video + self.images

    @property
    def clip(self) -> "Frames":
        """The clips alone."""
        return Frames(self.video, 0)

    def fold(self, sample: Tensor) -> Tensor:
        """(B, C, video + images, H, W) -> (B * (video + images), C, H, W), channels last.

        Free for clips whose memory is (B, F, H, W, C); otherwise the network's one layout copy, of a few channels.
        """
        x = sample.permute(0, 2, 3, 4, 1)
        x = self.join(*x.split([self.video, self.images], 1)) if self.images else x.flatten(0, 1).contiguous()
        return x.permute(0, 3, 1, 2)

    def unfold(self, x: Tensor) -> Tensor:
        """The inverse of `fold`; its memory is (B, video + images, H, W, C)."""
        clips, images = self.split(x.permute(0, 2, 3, 1))
        return (torch.cat([clips, images], 1) if self.images else clips).permute(0, 4, 1, 2, 3)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B * (video + images), ...) -> views (B, video, ...) and (B, images, ...)."""
        batch = x.shape[0] // self.total
        # A part of everything is taken as it is: the gradient of a split is a concatenation.
        clips, images = x.split([batch * self.video, batch * self.images]) if self.images else (x, x[:0])
        return clips.unflatten(0, (batch, self.video)), images.unflatten(0, (batch, self.images))

    def join(self, clips: Tensor, images: Tensor) -> Tensor:
        """(B, video, ...) and (B, images, ...) -> (B * (video + images), ...)."""
        return torch.cat([clips.flatten(0, 1), images.flatten(0, 1)]) if self.images else clips.flatten(0, 1)


SINGLE = Frames(1, 0)
"""Each frame by itself."""


class GroupNorm(nn.GroupNorm):
    """GroupNorm over single frames, or pooled over the frames of a clip."""

    def forward(self, x: Tensor, frames: Frames = SINGLE, silu: bool = False) -> Tensor:
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
        )


class ResnetBlock(nn.Module):
    """norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input. Norms pool over a clip's frames."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int, eps: float = 1e-5):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """x (B * F, C, H, W), time (B, T): one timestep for a clip and its images."""
        h = self.conv1(self.norm1(x, frames, silu=True))
        time = self.time_emb_proj(F.silu(time))[:, None, :, None, None]
        if frames.images == 0:
            h = (h.unflatten(0, (-1, frames.video)) + time).flatten(0, 1)
        else:
            h = h + frames.join(time.expand(-1, frames.video, -1, -1, -1), time.expand(-1, frames.images, -1, -1, -1))
        h = self.conv2(self.norm2(h, frames, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour to a given height and width, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
