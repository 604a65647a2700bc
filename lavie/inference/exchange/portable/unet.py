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

from ....models import attention, embeddings, resnet, temporal, unet
from ....models.attention import with_numbers
from ....models.embeddings import kept_buckets
from ....models.frames import Frames
from ....models.resnet import SINGLE
from ....ops.temporal_attention import turn_frames


class RelativeBias(embeddings.RelativeBias):
    """A learned bias per head and bucket of relative frame distance; zero at the start."""

    def forward(self, frames: int) -> Tensor:
        """Return the bias of each head and pair of frames, (heads, F, F)."""
        table = self.relative_attention_bias
        return table(kept_buckets(table.weight.device, frames)).permute(2, 0, 1)


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


class FrameAttention(attention.FrameAttention):
    """Attention whose queries are the positions of single frames."""

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it.

        text: (B, 1 + images, L, D): the first entry serves the clip, the others an image each.
        """
        first, *others = self.layers()
        return self.attend(projections(x, first), frames, *(projections(text, layers) for layers in others))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (N, S, heads, D) to k and v (N, L, heads, D), and project: (N, S, C)."""
        return self.out(scaled_attention(q, k, v))


class TemporalAttention(attention.TemporalAttention):
    """Attention over the clip's frames at each position (paper, section 4.1). It starts as the exact zero map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, F, S, C) to a tensor like it."""
        x = with_numbers(x) if self.absolute else x
        [layers] = self.layers()
        return self.attend(projections(x, layers))

    def attend(self, projected: Tensor) -> Tensor:
        """Return the output (B, F, S, C), from the packed projections of the tokens (B, F, S, 3 C)."""
        # Every (batch, position, head) is one short sequence of F frames, whose softmax is float32.
        q, k, v = (part.movedim(1, -2).float() for part in turned(self.split(projected), self.rotary_dim))
        bias = self.time_rel_pos_bias(projected.shape[1]) if self.time_rel_pos_bias is not None else None
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias if bias is None else bias.float())
        return self.out(heads.movedim(-2, 1).to(projected.dtype))


class SpaceTimeAttention(attention.SpaceTimeAttention):
    """Attention over all positions of all frames of a clip, in place of that over frames (paper, Table 6)."""

    def attend(self, projected: Tensor) -> Tensor:
        """Return the output (B, F, S, C), from every position of every frame to all of them."""
        q, k, v = (part.flatten(1, 2) for part in turned(self.split(projected), self.rotary_dim))
        return self.out(scaled_attention(q, k, v)).unflatten(1, projected.shape[1:3])


def projections(x: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
    """Apply several layers to x (..., C), and put what they give behind one another: (..., layers * C)."""
    return torch.cat([layer(x) for layer in layers], -1)


def turned(heads: tuple[Tensor, ...], rotary_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q and k of (q, k, v), (B, F, S, heads, D) each, turned by the numbers of their frames, and v as it is."""
    q, k, v = heads
    return turn_frames(q, rotary_dim), turn_frames(k, rotary_dim), v


def scaled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from q (N, S, heads, D) to k and v (N, L, heads, D) with the scale D ** -0.5: (N, S, heads, D)."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


class FeedForward(attention.FeedForward):
    """A GEGLU of four times the width, then a linear layer back."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to a tensor like it."""
        proj: Any = self.net[0].proj
        value, gate = proj(x).chunk(2, -1)
        return self.net[2](value * F.gelu(gate))


class TransformerBlock(attention.TransformerBlock):
    """Four layers on tokens: self-attention, text attention, temporal attention and feed-forward.

    Each is pre-normed and residual. With temporal_order "after_feed_forward" the last two change places.
    """

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it; text: (B, 1 + images, L, D)."""
        x = x + self.attn1(self.norm1(x), text, frames)
        x = x + self.attn2(self.norm2(x), text, frames)
        x = x if self.temporal_last else self._over_frames(x, frames)
        x = x + self.ff(self.norm3(x))
        return self._over_frames(x, frames) if self.temporal_last else x

    def _over_frames(self, x: Tensor, frames: Frames) -> Tensor:
        """Apply temporal attention to the clips; images pass by."""
        if not frames.video:
            return x
        clips, images = frames.split(x)
        return frames.join(clips + self.attn_temp(self.norm_temp(clips)), images)


class SpatialTransformer(attention.SpatialTransformer):
    """A residual layer: norm, projection in, one transformer block on the tokens, projection out.

    With temporal convolutions a temporal residual block comes before it.
    """

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; text: (B, 1 + images, L, D)."""
        if self.resblock_temporal is not None and frames.video:
            x = self.resblock_temporal(x, frames)
        linear = self.proj_in.weight.ndim == 2  # type: ignore[operator]
        h = self.norm(x) if linear else self.proj_in(self.norm(x))
        tokens = h.permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.proj_in(tokens) if linear else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        tokens = self.proj_out(tokens) if linear else tokens
        h = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x + (h if linear else self.proj_out(h))


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
