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
from ..ops.group_norm_linear import group_norm_linear
from ..ops.norm_linear import norm_linear, packed
from ..ops.temporal_attention import temporal_attention, turn_frames
from .backends import UsesAttention, UsesKernels
from .embeddings import RelativeBias, sinusoid
from .frames import Frames
from .resnet import GroupNorm, affine
from .temporal import TemporalResnetBlock


class Attention(UsesKernels, nn.Module):
    """The projections of multi-head attention: layers with the same input are applied as one product.

    A `TransformerBlock` takes its steps one by one: `read` applies packed weights, and `attend` takes what they gave.
    """

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        context_channels = context_channels or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def layers(self) -> list[tuple[nn.Linear, ...]]:
        """Return the layers of each product: of that which reads the tokens, and of one for the text if there is."""
        return [(self.to_q, self.to_k, self.to_v)]

    def weights(self) -> list[tuple[Tensor, ...]]:
        """Return the weights of each product."""
        return [tuple(layer.weight for layer in layers) for layers in self.layers()]

    def read(
        self, x: Tensor, added: Tensor | None, rows: int, norm: nn.LayerNorm, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return x plus `added`, and the packed projections of the norm of its first rows; see `norm_linear`."""
        affine = (norm.weight, norm.bias, norm.eps)
        return norm_linear(x, added, rows, *affine, weight, None, backend=self.kernel_backend)

    def split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Return a view (..., heads, head_dim) of packed projections (..., layers * C) for each layer."""
        heads = projected.unflatten(-1, (-1, self.heads, self.to_q.out_features // self.heads))
        return heads.unbind(-3) if heads.shape[-3] > 1 else (heads.squeeze(-3),)  # a part is copied in backward

    def out(self, heads: Tensor) -> Tensor:
        """Merge the heads and project them: (..., heads, head_dim) -> (..., C)."""
        return self.to_out[0](heads.flatten(-2))


class FrameAttention(UsesAttention, Attention):
    """Attention whose queries are the positions of single frames."""

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, S, C) to a tensor like it.

        text: (B, 1 + images, L, D): the first entry serves the clip, the others an image each.
        """
        weight, *of_text = packed(self.weights())
        return self.attend(F.linear(x, weight), frames, *(F.linear(text, other) for other in of_text))

    def attend(self, projected: Tensor, frames: Frames, *text: Tensor) -> Tensor:
        """Return the output (B * F, S, C), from the packed projections of the tokens, and of the text if it is read."""
        raise NotImplementedError

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (N, S, heads, D) to k and v (N, L, heads, D), and project: (N, S, C)."""
        return self.out(attention(q, k, v, backend=self.attention_backend))


class SelfAttention(FrameAttention):
    """Attention within each frame. It does not read the text."""

    def attend(self, projected: Tensor, frames: Frames, *text: Tensor) -> Tensor:
        """Return the output, as for every `FrameAttention`."""
        return self.mix(*self.split(projected))


class FirstAndPreviousAttention(FrameAttention):
    """Attention from each frame of a clip to the clip's first frame and to the frame before it.

    An image reads itself. The text is not read.
    """

    def attend(self, projected: Tensor, frames: Frames, *text: Tensor) -> Tensor:
        """Return the output, as for every `FrameAttention`."""
        q, k, v = self.split(projected)
        return self.mix(q, _first_and_previous(k, frames), _first_and_previous(v, frames))


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

    def layers(self) -> list[tuple[nn.Linear, ...]]:
        """Return the layer of the product for the tokens, and those of that for the text."""
        return [(self.to_q,), (self.to_k, self.to_v)]

    def attend(self, projected: Tensor, frames: Frames, *text: Tensor) -> Tensor:
        """Return the output, as for every `FrameAttention`."""
        (q,), (pairs,) = self.split(projected), text
        if frames.images == 0:  # one text for all frames: the frames are just more queries
            k, v = self.split(pairs.squeeze(1))
            q = q.unflatten(0, (-1, frames.video)).flatten(1, 2)
            return self.mix(q, k, v).unflatten(1, (frames.video, -1)).flatten(0, 1)
        return self.mix(q, *self.split(_per_frame(pairs, frames)))


def _per_frame(text: Tensor, frames: Frames) -> Tensor:
    """Repeat the clips' text for each of their frames: (B, 1 + images, ...) -> (B * F, ...); images have one each."""
    clip, images = text.split([1, frames.images], 1)
    return frames.join(clip.expand(-1, frames.video, *clip.shape[2:]), images)


class TemporalAttention(Attention):
    """Attention over the clip's frames at each position (paper, section 4.1). It starts as the exact zero map."""

    def __init__(self, config: UNetConfig, channels: int, heads: int):
        super().__init__(channels, heads)
        self.rotary_dim = config.turned_dims
        self.absolute = config.temporal_position == "absolute"
        self.time_rel_pos_bias = RelativeBias(heads) if config.relative_bias else None
        for parameter in self.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, F, S, C) to a tensor like it."""
        x = with_numbers(x) if self.absolute else x
        [weight] = packed(self.weights())
        return self.attend(F.linear(x, weight))

    def read_clips(
        self, x: Tensor, added: Tensor | None, frames: Frames, norm: nn.LayerNorm, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return x (B * F, S, C) plus `added`, and the projections of the norm of its clips, (B, F, S, 3 C)."""
        rows = len(x) // frames.total * frames.video
        if not self.absolute:
            x, projected = self.read(x, added, rows, norm, weight)
            return x, projected.unflatten(0, (-1, frames.video))
        x = x if added is None else x + added  # sinusoids come between the norm and the product
        return x, F.linear(with_numbers(norm(x[:rows]).unflatten(0, (-1, frames.video))), weight)

    def attend(self, projected: Tensor) -> Tensor:
        """Return the output (B, F, S, C), from the packed projections of the tokens (B, F, S, 3 C)."""
        qkv = projected.unflatten(-1, (3, self.heads, -1))
        bias = self.time_rel_pos_bias(qkv.shape[1]) if self.time_rel_pos_bias is not None else None
        heads = temporal_attention(qkv, rotary_dim=self.rotary_dim, bias=bias, backend=self.kernel_backend)
        return self.out(heads)


class SpaceTimeAttention(UsesAttention, TemporalAttention):
    """Attention over all positions of all frames of a clip, in place of that over frames (paper, Table 6)."""

    def attend(self, projected: Tensor) -> Tensor:
        """Return the output (B, F, S, C), from every position of every frame to all of them."""
        q, k, v = self.split(projected)
        turned = (turn_frames(q, self.rotary_dim), turn_frames(k, self.rotary_dim), v)
        heads = attention(*(part.flatten(1, 2) for part in turned), backend=self.attention_backend)
        return self.out(heads).unflatten(1, projected.shape[1:3])


def with_numbers(x: Tensor) -> Tensor:
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

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to a tensor like it."""
        return self.finish(F.linear(x, *self.first))

    @property
    def first(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the first layer."""
        proj = self.net[0].proj
        return proj.weight, proj.bias  # type: ignore[union-attr,return-value]

    def read(self, x: Tensor, added: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """Return x plus `added`, and the values and gates of the norm of it; see `norm_linear`."""
        affine = (norm.weight, norm.bias, norm.eps)
        return norm_linear(x, added, len(x), *affine, *self.first, backend=self.kernel_backend)

    def finish(self, h: Tensor) -> Tensor:
        """Return the output (..., C) from values and gates (..., 8 C)."""
        last: nn.Linear = self.net[2]  # type: ignore[assignment]
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
            self.attn1: FrameAttention = TextAttention(channels, heads, text_channels)
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
        """Map x (B * F, S, C) to a tensor like it; text: (B, 1 + images, L, D).

        What a layer gives is added on the way into the next one, which reads the norm of the sum.
        """
        first, second, of_temporal = self.attn1.weights(), self.attn2.weights(), self.attn_temp.weights()
        weights = packed([*first, *second, *of_temporal])
        between, end = len(first), len(first) + len(second)

        x, projected = self.attn1.read(x, None, len(x), self.norm1, weights[0])
        added = self.attn1.attend(projected, frames, *(F.linear(text, weight) for weight in weights[1:between]))
        x, projected = self.attn2.read(x, added, len(x), self.norm2, weights[between])
        added = self.attn2.attend(projected, frames, *(F.linear(text, weight) for weight in weights[between + 1 : end]))

        if not self.temporal_last:
            x, added = self._added_temporal(x, added, frames, weights[end])
        x, h = self.ff.read(x, added, self.norm3)
        added = self.ff.finish(h)
        if self.temporal_last:
            x, added = self._added_temporal(x, added, frames, weights[end])
        rows = len(added)  # temporal attention gives something for the first rows alone
        return x + added if rows == len(x) else torch.cat([x[:rows] + added, x[rows:]])

    def _added_temporal(self, x: Tensor, added: Tensor, frames: Frames, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return x plus `added`, and what temporal attention gives for the clips, which are its first rows.

        Without clips both are returned as they are.
        """
        if not frames.video:
            return x, added
        x, projected = self.attn_temp.read_clips(x, added, frames, self.norm_temp, weight)
        return x, self.attn_temp.attend(projected).flatten(0, 1)


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
        linear = config.linear_projection
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, channels, heads, only_cross_attention)])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, frames: Frames) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; text: (B, 1 + images, L, D)."""
        if self.resblock_temporal is not None and frames.video:
            x = self.resblock_temporal(x, frames)
        norm, (weight, bias) = self.norm, affine(self.proj_in)
        x, tokens = group_norm_linear(
            x, norm.weight, norm.bias, norm.num_groups, norm.eps, weight.flatten(1), bias, backend=norm.kernel_backend
        )
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        weight, bias = affine(self.proj_out)  # of 1 x 1, if a convolution: a linear layer of the tokens
        h = F.linear(tokens, weight.flatten(1), bias)
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
