"""Temporal convolutions of the super-resolution network (paper, section 4.3): blocks that start as exact identities.

x is a folded batch (B * (video + images), C, H, W), channels last; temporal convolutions see the clips' memory as
(B, F, S, C). Images pass by.
"""

from torch import Tensor, nn

from ..config.model import TEMPORAL_GROUPS
from ..ops.pseudo3d_conv import pseudo3d_block
from .backends import UsesKernels
from .frames import Frames
from .resnet import GroupNorm, ResnetBlock, affine

EPS = 1e-6
"""The epsilon of every norm in these blocks."""


class TemporalResnetBlock(UsesKernels, nn.Module):
    """A temporal residual block: norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input.

    The convolutions run over frames; a block without time_channels takes no time embedding. One operation reads the
    weights of all its layers, so under ZeRO-3 the block must be gathered as a whole.
    """

    def __init__(self, channels: int, kernels: tuple[int, int], time_channels: int | None = None):
        super().__init__()
        self.norm1 = GroupNorm(TEMPORAL_GROUPS, channels, eps=EPS)
        self.conv1 = nn.Conv3d(channels, channels, (kernels[0], 1, 1))
        self.time_emb_proj = nn.Linear(time_channels, channels) if time_channels else None
        self.norm2 = GroupNorm(TEMPORAL_GROUPS, channels, eps=EPS)
        self.conv2 = nn.Conv3d(channels, channels, (kernels[1], 1, 1))

    def zero_init(self) -> "TemporalResnetBlock":
        """Make the block the exact identity."""
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)
        return self

    def forward(self, x: Tensor, frames: Frames, time: Tensor | None = None) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; time: (B, T), SiLU of the embedding, if the block takes one."""
        if frames.images:
            clips, alone = frames.split(x)
            return frames.join(self(clips.flatten(0, 1), frames.clip, time).unflatten(0, clips.shape[:2]), alone)
        if self.time_emb_proj is not None and time is not None:
            time = self.time_emb_proj(time)
        return pseudo3d_block(
            x,
            *(affine(layer) for layer in (self.norm1, self.conv1, self.norm2, self.conv2)),
            frames=frames.video,
            groups=TEMPORAL_GROUPS,
            eps=EPS,
            time=time,
            backend=self.kernel_backend,
        )


class TemporalModule(nn.Module):
    """The residual module x + conv1x1(spatial block(temporal block(x))); its 1x1 convolution starts at zero."""

    def __init__(self, channels: int, time_channels: int):
        super().__init__()
        self.resblocks_3d_t = TemporalResnetBlock(channels, (5, 3), time_channels)
        self.resblocks_3d_s = ResnetBlock(channels, channels, time_channels, TEMPORAL_GROUPS, EPS)
        self.shift_conv = nn.Conv2d(channels, channels, 1)
        for parameter in self.shift_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; time: (B, T), SiLU of the embedding."""
        if frames.images:
            clips, alone = frames.split(x)
            return frames.join(self(clips.flatten(0, 1), time, frames.clip).unflatten(0, clips.shape[:2]), alone)
        h = self.resblocks_3d_t(x, frames, time)
        return x + self.shift_conv(self.resblocks_3d_s(h, time, frames))
