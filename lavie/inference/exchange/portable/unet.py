"""What an export's `lavie_unet.py` has in place of the sources': layers that are called, and diffusers' base classes.

It is not run here: `bundle` merges it with the sources. Operations there read the weights of several layers at once and
have kernels and backward passes of their own; here each layer is called by itself, in plain PyTorch, so that adapters
of peft take hold of all of them.
"""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn

from ....models import attention, resnet, temporal, unet
from ....models.frames import Frames
from ....models.resnet import SINGLE
from ....ops.temporal_attention import turn_frames


class GroupNorm(resnet.GroupNorm):
    """GroupNorm over single frames, or pooled over the frames of a clip."""

    def forward(self, x: Tensor, frames: Frames = SINGLE, silu: bool = False) -> Tensor:
        """Normalise x (B * F, C, H, W), and apply SiLU if `silu`."""
        clips, images = frames.split(x)
        if frames.pool_images:
            rows = self._pooled(torch.cat([clips, images], 1))
            clips, images = rows.split([frames.video, frames.images], 1)
        else:
            clips, images = self._pooled(clips), self._pooled(images.flatten(0, 1)[:, None]).view_as(images)
        y = frames.join(clips, images)
        return F.silu(y) if silu else y

    def _pooled(self, rows: Tensor) -> Tensor:
        """Normalise (N, R, C, H, W), each group of channels over all R rows."""
        if not rows.numel():
            return rows
        return F.group_norm(rows.transpose(1, 2), self.num_groups, self.weight, self.bias, self.eps).transpose(1, 2)


class ResnetBlock(resnet.ResnetBlock):
    """A spatial residual block: norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input.

    Norms pool over a clip's frames.
    """

    def forward(self, x: Tensor, time: Tensor, frames: Frames, skip: Tensor | None = None) -> Tensor:
        """Map x (B * F, C, H, W) to the output channels; time: (B, T); skip: further channels of x."""
        x = x if skip is None else torch.cat([x, skip], 1)
        h = self.conv1(self.norm1(x, frames, silu=True))
        shift = self.time_emb_proj(time)[:, None, :, None, None]
        clips, images = frames.split(h)
        h = self.conv2(self.norm2(frames.join(clips + shift, images + shift), frames, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalResnetBlock(temporal.TemporalResnetBlock):
    """A temporal residual block: norm-SiLU-conv, plus the time embedding, norm-SiLU-conv, plus the input.

    The convolutions run over frames; a block without time_channels takes no time embedding.
    """

    def forward(self, x: Tensor, frames: Frames, time: Tensor | None = None) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; time: (B, T), SiLU of the embedding, if the block takes one."""
        clips, images = frames.split(x)
        h = self._convolved(clips, self.norm1, self.conv1)
        if self.time_emb_proj is not None and time is not None:
            h = h + self.time_emb_proj(time)[:, None, :, None, None]
        return frames.join(clips + self._convolved(h, self.norm2, self.conv2), images)

    def _convolved(self, clips: Tensor, norm: nn.GroupNorm, conv: nn.Conv3d) -> Tensor:
        """Normalise clips (B, F, C, H, W), apply SiLU, and convolve them over frames."""
        h = norm(clips.flatten(0, 1), Frames(clips.shape[1], 0), silu=True).unflatten(0, clips.shape[:2])
        padding = (conv.kernel_size[0] // 2, 0, 0)
        return F.conv3d(h.transpose(1, 2), conv.weight, conv.bias, padding=padding).transpose(1, 2)


class Attention(attention.Attention):
    """The projections of multi-head attention, behind the LayerNorm that is given beside their input, if one is."""

    def packed(self, x: Tensor, norm: nn.LayerNorm | None, *layers: nn.Linear) -> Tensor:
        """Apply several layers to the norm of x (..., C): (..., layers, heads, head_dim)."""
        x = x if norm is None else norm(x)
        return torch.stack([layer(x).unflatten(-1, (self.heads, -1)) for layer in layers], -3)


class FrameAttention(attention.FrameAttention):
    """Attention whose queries are the positions of single frames."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (N, S, heads, D) to k and v (N, L, heads, D), and project: (N, S, C)."""
        return self.out(scaled_attention(q, k, v))


class TemporalAttention(attention.TemporalAttention):
    """Attention over the clip's frames at each position (paper, section 4.1). It starts as the exact zero map."""

    def attend(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        """Attend within x (B, F, S, C), which knows of its frames' numbers what it shall, and project."""
        # Every (batch, position, head) is one short sequence of F frames, whose softmax is float32.
        q, k, v = (part.movedim(1, -2).float() for part in self._turned(x, norm))
        bias = self.time_rel_pos_bias(x.shape[1]) if self.time_rel_pos_bias is not None else None
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias if bias is None else bias.float())
        return self.out(heads.movedim(-2, 1).to(x.dtype))

    def _turned(self, x: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k, turned by the numbers of their frames, and v: (B, F, S, heads, D) each."""
        q, k, v = self.project(x, norm, self.to_q, self.to_k, self.to_v)
        return turn_frames(q, self.rotary_dim), turn_frames(k, self.rotary_dim), v


class SpaceTimeAttention(attention.SpaceTimeAttention):
    """Attention over all positions of all frames of a clip, in place of that over frames (paper, Table 6)."""

    def attend(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        """Attend within x (B, F, S, C), from every position of every frame to all of them, and project."""
        q, k, v = (part.flatten(1, 2) for part in self._turned(x, norm))
        return self.out(scaled_attention(q, k, v)).unflatten(1, x.shape[1:3])


def scaled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from q (N, S, heads, D) to k and v (N, L, heads, D) with the scale D ** -0.5: (N, S, heads, D)."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


class FeedForward(attention.FeedForward):
    """A GEGLU of four times the width, then a linear layer back."""

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (..., C), which goes through the norm first if there is one, to a tensor like it."""
        proj: Any = self.net[0].proj
        value, gate = proj(x if norm is None else norm(x)).chunk(2, -1)
        return self.net[2](value * F.gelu(gate))


class UNetConfig(SimpleNamespace):
    """The keys of `VideoUNet`, and what follows from them."""


class VideoUNet(ModelMixin, ConfigMixin, PeftAdapterMixin, unet.VideoUNet):  # type: ignore[misc]  # two configs
    """The network that predicts the noise (or v) of latents, given the timestep and the text."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        cross_attention: tuple[bool, ...] = (True, True, True, False),
        layers_per_block: int = 2,
        num_attention_heads: int | tuple[int, ...] = 8,
        cross_attention_dim: int = 768,
        norm_num_groups: int = 32,
        only_cross_attention: bool | tuple[bool, ...] = False,
        spatial_attention: str = "own",
        linear_projection: bool = False,
        num_noise_levels: int = 0,
        max_noise_level: int | None = None,
        temporal_order: str = "before_feed_forward",
        temporal_convolutions: bool = False,
        temporal_module: str = "time",
        temporal_position: str = "rope",
        rotary_dim: int = 32,
        relative_bias: bool = True,
        norm_statistics: str = "separate",
    ):
        """Build the network that the keys name; docs/configuration.md of LaVie's trainer says what they are."""
        super().__init__()
        self.gradient_checkpointing = False
        config: Any = UNetConfig(**self.config)
        self._build(config)
