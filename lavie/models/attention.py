"""The transformer of the video UNet: spatial self-attention, text attention, temporal attention, feed-forward.

Tokens are (B * F, S, C): a view of channels-last frames. Temporal attention sees the same memory as (B, F, S, C).
The modules read each other's weights to multiply with one packed matrix, so under ZeRO-3 a TransformerBlock must be
gathered as a whole (a "leaf module").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import attention
from ..ops.temporal_attention import temporal_attention
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
        packed = F.linear(x, torch.cat([layer.weight for layer in layers])) if len(layers) > 1 else layers[0](x)
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
        (q,) = self.project(x, self.to_q)
        k, v = self.project(text, self.to_k, self.to_v)
        if frames.images == 0:  # one text for all frames: the frames are just more queries
            q = q.unflatten(0, (-1, frames.video)).flatten(1, 2)
            return self.out(attention(q, k[:, 0], v[:, 0])).unflatten(1, (frames.video, -1)).flatten(0, 1)
        k, v = (torch.cat([t[:, :1].expand(-1, frames.video, -1, -1, -1), t[:, 1:]], 1).flatten(0, 1) for t in (k, v))
        return self.out(attention(q, k, v))


class TemporalAttention(Attention):
    """Over the clip's frames at each position (paper, section 4.1); starts as the exact zero map."""

    def __init__(self, channels: int, heads: int, rotary_dim: int, relative_bias: bool):
        super().__init__(channels, heads)
        self.rotary_dim = rotary_dim
        self.time_rel_pos_bias = RelativeBias(heads) if relative_bias else None
        nn.init.zeros_(self.to_out[0].weight)
        nn.init.zeros_(self.to_out[0].bias)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """x (B, F, S, C) with all frames -> (B, video, S, C): what to add to the clip's frames."""
        q, k, v = (t[:, : frames.video] for t in self.project(x, self.to_q, self.to_k, self.to_v))
        bias = self.time_rel_pos_bias(frames.video) if self.time_rel_pos_bias is not None else None
        return self.out(temporal_attention(q, k, v, rotary_dim=self.rotary_dim, bias=bias))


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
            x = x.unflatten(0, (-1, frames.total))  # (B, F, S, C)
            change = self.attn_temp(self.norm_temp(x), frames)
            clip = x[:, : frames.video] + change
            x = (torch.cat([clip, x[:, frames.video :]], 1) if frames.images else clip).flatten(0, 1)
        return x + self.ff(self.norm3(x))


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
