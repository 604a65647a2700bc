"""The transformer of the video UNet: spatial self-attention, text attention, temporal attention, feed-forward.

Tokens are (B * F, S, C): a view of channels-last frames. Temporal attention sees the clips' memory as (B, F, S, C).
The modules read each other's weights to multiply with one packed matrix, so under ZeRO-3 a TransformerBlock must be
gathered as a whole (a "leaf module").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import attention
from ..ops.temporal_attention import temporal_attention_packed
from .embeddings import RelativeBias
from .resnet import Frames, GroupNorm


class Attention(nn.Module):
    """The projections of multi-head attention, applied packed."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        context_channels = context_channels or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def project(self, x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """x (..., C) through several layers in one product -> a (..., heads, head_dim) view for each."""
        packed = F.linear(x, torch.cat([layer.weight for layer in layers]))
        return packed.unflatten(-1, (len(layers), self.heads, -1)).unbind(-3)

    def out(self, heads: Tensor) -> Tensor:
        """(..., heads, head_dim) -> (..., C)."""
        return self.to_out[0](heads.flatten(-2))


class SelfAttention(Attention):
    """Within each frame: (B * F, S, C) -> (B * F, S, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(attention(*self.project(x, self.to_q, self.to_k, self.to_v)))


class TextAttention(Attention):
    """From each frame to its text."""

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """x (B * F, S, C), text (B, 1 + images, L, D): the first entry serves the clip, the others an image each."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        k, v = self.project(text, self.to_k, self.to_v)
        if frames.images == 0:  # one text for all frames: the frames are just more queries
            q = q.unflatten(0, (-1, frames.video)).flatten(1, 2)
            return self.out(attention(q, k.squeeze(1), v.squeeze(1))).unflatten(1, (frames.video, -1)).flatten(0, 1)
        return self.out(attention(q, _per_frame(k, frames), _per_frame(v, frames)))


def _per_frame(text: Tensor, frames: Frames) -> Tensor:
    """(B, 1 + images, ...) -> (B * F, ...): the first entry for each frame of the clips, then an entry per image."""
    clip, images = text.split([1, frames.images], 1)
    return frames.join(clip.expand(-1, frames.video, *clip.shape[2:]), images)


class TemporalAttention(Attention):
    """Over the clip's frames at each position (paper, section 4.1); starts as the exact zero map."""

    def __init__(self, channels: int, heads: int, rotary_dim: int, relative_bias: bool):
        super().__init__(channels, heads)
        self.rotary_dim = rotary_dim
        self.time_rel_pos_bias = RelativeBias(heads) if relative_bias else None
        for parameter in self.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, S, C) -> (B, F, S, C)."""
        qkv = F.linear(x, torch.cat([layer.weight for layer in (self.to_q, self.to_k, self.to_v)]))
        bias = self.time_rel_pos_bias(x.shape[1]) if self.time_rel_pos_bias is not None else None
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        return self.out(temporal_attention_packed(qkv, rotary_dim=self.rotary_dim, bias=bias))


class GEGLU(nn.Module):
    """Linear, then values times GELU of gates (Shazeer, 2020)."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU of four times the width, then back."""

    def __init__(self, channels: int):
        super().__init__()
        # The identity keeps the released names: net.0.proj and net.2.
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """self -> text -> temporal -> feed-forward, each pre-normed and residual."""

    def __init__(self, channels: int, heads: int, text_channels: int, rotary_dim: int, relative_bias: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TextAttention(channels, heads, text_channels)
        self.norm_temp = nn.LayerNorm(channels)
        self.attn_temp = TemporalAttention(channels, heads, rotary_dim, relative_bias)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """x (B * F, S, C), text (B, 1 + images, L, D)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text, frames)
        if frames.video:
            clips, images = frames.split(x)
            x = frames.join(self.temporal(clips), images)
        return x + self.ff(self.norm3(x))

    def temporal(self, clip: Tensor) -> Tensor:
        """(B, F, S, C) -> (B, F, S, C)."""
        return clip + self.attn_temp(self.norm_temp(clip))


class SpatialTransformer(nn.Module):
    """norm, 1x1 in, one transformer block on the tokens, 1x1 out, plus the input."""

    def __init__(
        self, channels: int, heads: int, text_channels: int, groups: int, rotary_dim: int, relative_bias: bool
    ):
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, heads, text_channels, rotary_dim, relative_bias)]
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """x (B * F, C, H, W), text (B, 1 + images, L, D)."""
        h = self.proj_in(self.norm(x))
        tokens = h.permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        h = tokens.unflatten(1, h.shape[2:]).permute(0, 3, 1, 2)
        return x + self.proj_out(h)
