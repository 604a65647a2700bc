"""The transformer of the video UNet: spatial self-attention, text attention, temporal attention, feed-forward.

Tokens are (B * F, S, C): a view of channels-last frames. Temporal attention sees the clips' memory as (B, F, S, C).
The modules read each other's weights to multiply with one packed matrix, so under ZeRO-3 a SpatialTransformer must be
gathered as a whole (a "leaf module").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.model import UNetConfig
from ..ops.attention import attention
from ..ops.geglu import geglu_linear
from ..ops.norm_linear import norm_linear
from ..ops.temporal_attention import temporal_attention, turn_frames
from .backends import UsesAttention, UsesKernels
from .embeddings import RelativeBias, sinusoid
from .frames import Frames
from .resnet import GroupNorm
from .temporal import TemporalResnetBlock


class Attention(nn.Module):
    """The projections of multi-head attention: layers with the same input are applied as one product.

    The kinds of attention below take the LayerNorm in front of them beside its input, and are then maps of that input:
    so the norm's output is not kept for the backward pass. Without one they read x as it is.
    """

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        context_channels = context_channels or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def packed(self, x: Tensor, norm: nn.LayerNorm | None, *layers: nn.Linear) -> Tensor:
        """Apply several layers to the norm of x (..., C) in one product: (..., layers, heads, head_dim)."""
        weights = tuple(layer.weight for layer in layers)
        if norm is None:
            packed = F.linear(x, weights[0] if len(weights) == 1 else torch.cat(weights))
        else:
            packed = norm_linear(x, norm.weight, norm.bias, norm.eps, weights, None)
        return packed.unflatten(-1, (len(layers), self.heads, -1))

    def project(self, x: Tensor, norm: nn.LayerNorm | None, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Return a view (..., heads, head_dim) of `packed` for each layer."""
        packed = self.packed(x, norm, *layers)
        return packed.unbind(-3) if len(layers) > 1 else (packed.squeeze(-3),)  # a part is copied in backward

    def out(self, heads: Tensor) -> Tensor:
        """Merge the heads and project them: (..., heads, head_dim) -> (..., C)."""
        return self.to_out[0](heads.flatten(-2))


class FrameAttention(UsesAttention, Attention):
    """Attention whose queries are the positions of single frames."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (N, S, heads, D) to k and v (N, L, heads, D), and project: (N, S, C)."""
        return self.out(attention(q, k, v, backend=self.attention_backend))


class SelfAttention(FrameAttention):
    """Attention within each frame."""

    def forward(self, x: Tensor, text: Tensor, frames: Frames, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it; the text is not read."""
        return self.attend(*self.project(x, norm, self.to_q, self.to_k, self.to_v))


class FirstAndPreviousAttention(SelfAttention):
    """Attention from each frame of a clip to the clip's first frame and to the frame before it.

    An image reads itself.
    """

    def forward(self, x: Tensor, text: Tensor, frames: Frames, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it; the text is not read."""
        q, k, v = self.project(x, norm, self.to_q, self.to_k, self.to_v)
        return self.attend(q, _first_and_previous(k, frames), _first_and_previous(v, frames))


def _first_and_previous(x: Tensor, frames: Frames) -> Tensor:
    """Put what each frame reads one behind the other: (B * F, S, heads, D) -> (B * F, 2 S, heads, D).

    Frame 0 and images have themselves twice.
    """
    clips, images = frames.split(x)
    first = clips[:, :1]
    previous = torch.cat([first, clips[:, :-1]], 1)
    pairs = torch.cat([first.expand_as(clips), previous], 2)
    return frames.join(pairs, torch.cat([images, images], 2))


class TextAttention(FrameAttention):
    """Attention from each frame to its text."""

    def forward(self, x: Tensor, text: Tensor, frames: Frames, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it.

        text: (B, 1 + images, L, D): the first entry serves the clip, the others an image each.
        """
        (q,) = self.project(x, norm, self.to_q)
        k, v = self.project(text, None, self.to_k, self.to_v)
        if frames.images == 0:  # one text for all frames: the frames are just more queries
            q = q.unflatten(0, (-1, frames.video)).flatten(1, 2)
            return self.attend(q, k.squeeze(1), v.squeeze(1)).unflatten(1, (frames.video, -1)).flatten(0, 1)
        return self.attend(q, _per_frame(k, frames), _per_frame(v, frames))


def _per_frame(text: Tensor, frames: Frames) -> Tensor:
    """Repeat the clips' text for each of their frames: (B, 1 + images, ...) -> (B * F, ...); images have one each."""
    clip, images = text.split([1, frames.images], 1)
    return frames.join(clip.expand(-1, frames.video, *clip.shape[2:]), images)


class TemporalAttention(UsesKernels, Attention):
    """Attention over the clip's frames at each position (paper, section 4.1). It starts as the exact zero map."""

    def __init__(self, config: UNetConfig, channels: int, heads: int):
        super().__init__(channels, heads)
        self.rotary_dim = config.turned_dims
        self.absolute = config.temporal_position == "absolute"
        self.time_rel_pos_bias = RelativeBias(heads) if config.relative_bias else None
        for parameter in self.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (B, F, S, C) to a tensor like it."""
        if self.absolute:
            return self.attend(_with_numbers(x if norm is None else norm(x)), None)
        return self.attend(x, norm)

    def attend(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        """Attend within x (B, F, S, C), which knows of its frames' numbers what it shall, and project."""
        qkv = self.packed(x, norm, self.to_q, self.to_k, self.to_v)
        bias = self.time_rel_pos_bias(x.shape[1]) if self.time_rel_pos_bias is not None else None
        heads = temporal_attention(qkv, rotary_dim=self.rotary_dim, bias=bias, backend=self.kernel_backend)
        return self.out(heads)


class SpaceTimeAttention(UsesAttention, TemporalAttention):
    """Attention over all positions of all frames of a clip, in place of that over frames (paper, Table 6)."""

    def attend(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        """Attend within x (B, F, S, C), from every position of every frame to all of them, and project."""
        q, k, v = (part.flatten(1, 2) for part in self._turned(x, norm))
        return self.out(attention(q, k, v, backend=self.attention_backend)).unflatten(1, x.shape[1:3])

    def _turned(self, x: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k, turned by the numbers of their frames, and v: (B, F, S, heads, D) each."""
        q, k, v = self.project(x, norm, self.to_q, self.to_k, self.to_v)
        return turn_frames(q, self.rotary_dim), turn_frames(k, self.rotary_dim), v


def _with_numbers(x: Tensor) -> Tensor:
    """Add sinusoids of the frames' numbers to x (B, F, S, C). Clips longer than any trained one have them too."""
    numbers = torch.arange(x.shape[1], device=x.device)
    return x + sinusoid(numbers, x.shape[-1])[:, None].to(x.dtype)


class GEGLU(nn.Module):
    """The linear layer to values and gates of a `FeedForward`, which applies it."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)


class FeedForward(UsesKernels, nn.Module):
    """A GEGLU of four times the width, then a linear layer back."""

    def __init__(self, channels: int):
        super().__init__()
        # The identity keeps the released names: net.0.proj and net.2.
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """Map x (..., C), which goes through the norm first if there is one, to a tensor like it."""
        first, _, last = self.net
        assert isinstance(first, GEGLU) and isinstance(last, nn.Linear)
        proj = first.proj
        h = proj(x) if norm is None else norm_linear(x, norm.weight, norm.bias, norm.eps, (proj.weight,), proj.bias)
        return geglu_linear(h, last.weight, last.bias, backend=self.kernel_backend)


class TransformerBlock(nn.Module):
    """Four layers on tokens: self-attention, text attention, temporal attention and feed-forward.

    Each is pre-normed and residual. With temporal_order "after_feed_forward" the last two change places.
    """

    def __init__(self, config: UNetConfig, channels: int, heads: int, only_cross_attention: bool):
        """Take the kind of the first attention from the config; `only_cross_attention`: it reads the text as well."""
        super().__init__()
        text_channels = config.cross_attention_dim
        self.temporal_last = config.temporal_order == "after_feed_forward"
        self.norm1 = nn.LayerNorm(channels)
        if only_cross_attention:
            self.attn1: nn.Module = TextAttention(channels, heads, text_channels)
        else:
            spatial = {"own": SelfAttention, "first_and_previous": FirstAndPreviousAttention}
            self.attn1 = spatial[config.spatial_attention](channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TextAttention(channels, heads, text_channels)
        self.norm_temp = nn.LayerNorm(channels)
        temporal = {"time": TemporalAttention, "space_time": SpaceTimeAttention}[config.temporal_module]
        self.attn_temp = temporal(config, channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it; text: (B, 1 + images, L, D)."""
        x = x + self.attn1(x, text, frames, self.norm1)
        x = x + self.attn2(x, text, frames, self.norm2)
        if self.temporal_last:
            return self.temporal(x + self.ff(x, self.norm3), frames)
        x = self.temporal(x, frames)
        return x + self.ff(x, self.norm3)

    def temporal(self, x: Tensor, frames: Frames) -> Tensor:
        """Apply temporal attention to the clips; images pass by."""
        if not frames.video:
            return x
        clips, images = frames.split(x)
        return frames.join(clips + self.attn_temp(clips, self.norm_temp), images)


class SpatialTransformer(nn.Module):
    """A residual layer: norm, projection in, one transformer block on the tokens, projection out.

    With temporal convolutions a temporal residual block comes before it.
    """

    def __init__(self, config: UNetConfig, level: int, only_cross_attention: bool):
        """Take width, heads and kind of the layers from the config's level."""
        super().__init__()
        channels, heads = config.block_out_channels[level], config.heads[level]
        self.resblock_temporal = None
        if config.temporal_convolutions:
            self.resblock_temporal = TemporalResnetBlock(channels, (3, 3)).zero_init()
        self.norm = GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.linear = config.linear_projection
        self.proj_in = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, channels, heads, only_cross_attention)])
        self.proj_out = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; text: (B, 1 + images, L, D)."""
        if self.resblock_temporal is not None and frames.video:
            x = self.resblock_temporal(x, frames)
        h = self.norm(x)
        tokens = self._tokens(h if self.linear else self.proj_in(h))
        tokens = self.proj_in(tokens) if self.linear else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        tokens = self.proj_out(tokens) if self.linear else tokens
        h = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x + (h if self.linear else self.proj_out(h))

    @staticmethod
    def _tokens(x: Tensor) -> Tensor:
        """Return x (N, C, H, W) as tokens (N, H * W, C), a view of channels-last memory."""
        return x.permute(0, 2, 3, 1).flatten(1, 2)
