"""The base network computed as the released code does, on the weights of a `VideoUNet`: what ours is measured against.

Clips are (B, C, F, H, W) in that order of memory. Every spatial layer copies them to folded frames and back, GroupNorm
is PyTorch's on five dimensions, temporal attention is written out on copies that bring the frames of a position
together, and each layer of attention multiplies by itself (networks of Vchitect/LaVie, 6ce851e).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.embeddings import distance_buckets, sinusoid
from ..models.unet import VideoUNet
from ..ops.temporal_attention import rotary_frequencies


class ReleasedNetwork(nn.Module):
    """A `VideoUNet` whose forward pass is the released code's; parameters and their names are shared with it."""

    def __init__(self, network: VideoUNet, *, fused_attention: bool = True):
        """Take the weights of `network`.

        Args:
            network: of the base stage: pooled statistics, temporal attention before the feed-forward layer.
            fused_attention: whether attention within frames and to text is PyTorch's scaled_dot_product_attention, or
                two products with the scores in memory.

        Raises:
            ConfigError: the network is of another kind.
        """
        super().__init__()
        config = network.config
        plain = (config.norm_statistics, config.spatial_attention, config.temporal_order, config.temporal_module)
        wanted = ("pooled", "own", "before_feed_forward", "time")
        if plain != wanted or config.temporal_convolutions or config.linear_projection or any(config.text_only):
            raise ConfigError(f"the released way is written for base networks with {wanted}, and this one has {plain}")
        self.network, self.fused_attention = network, fused_attention

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *, num_images: int = 0
    ) -> Tensor:
        """Predict from noisy latents; arguments and result as for `VideoUNet.forward`, the text (B, 1 + images, L, D).

        The sample is (B, C, F, H, W) in that order of memory.
        """
        net: Any = self.network
        self.video = sample.shape[2] - num_images
        text = encoder_hidden_states if encoder_hidden_states.ndim == 4 else encoder_hidden_states[:, None]
        clip, images = text.split([1, num_images], 1)
        text = torch.cat([clip.repeat(1, self.video, 1, 1), images], 1).flatten(0, 1)  # (B F, L, D)
        time = net.time_embedding(sinusoid(timestep, net.config.block_out_channels[0]).to(sample.dtype))

        x = self._convolve(net.conv_in, sample)
        skips = [x]
        for down in net.down_blocks:
            for i, resnet in enumerate(down.resnets):
                x = self._resnet(resnet, x, time)
                if down.attentions:
                    x = self._transformer(down.attentions[i], x, text)
                skips.append(x)
            for layer in down.downsamplers:
                x = self._convolve(layer.conv, x)
                skips.append(x)

        x = self._resnet(net.mid_block.resnets[0], x, time)
        x = self._transformer(net.mid_block.attentions[0], x, text)
        x = self._resnet(net.mid_block.resnets[1], x, time)

        for up in net.up_blocks:
            for i, resnet in enumerate(up.resnets):
                x = self._resnet(resnet, torch.cat([x, skips.pop()], 1), time)
                if up.attentions:
                    x = self._transformer(up.attentions[i], x, text)
            for layer in up.upsamplers:
                x = F.interpolate(x, size=(x.shape[2], *skips[-1].shape[3:]), mode="nearest")
                x = self._convolve(layer.conv, x)
        return self._convolve(net.conv_out, F.silu(_pooled_norm(net.conv_norm_out, x)))

    @staticmethod
    def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
        """Convolve the frames of clips (B, C, F, H, W)."""
        y = conv(x.transpose(1, 2).reshape(-1, x.shape[1], *x.shape[3:]))
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)

    def _resnet(self, block: Any, x: Tensor, time: Tensor) -> Tensor:
        """Apply a residual block to clips (B, C, F, H, W)."""
        h = self._convolve(block.conv1, F.silu(_pooled_norm(block.norm1, x)))
        h = h + block.time_emb_proj(F.silu(time))[:, :, None, None, None]
        h = self._convolve(block.conv2, F.silu(_pooled_norm(block.norm2, h)))
        return (x if block.conv_shortcut is None else self._convolve(block.conv_shortcut, x)) + h

    def _transformer(self, layer: Any, clips: Tensor, text: Tensor) -> Tensor:
        """Apply a spatial transformer to clips (B, C, F, H, W); text: (B F, L, D)."""
        batch, size = clips.shape[0], clips.shape[3:]
        x = clips.transpose(1, 2).flatten(0, 1)  # a copy to folded frames
        h = F.group_norm(x, layer.norm.num_groups, layer.norm.weight, layer.norm.bias, layer.norm.eps)
        tokens = layer.proj_in(h).permute(0, 2, 3, 1).flatten(1, 2)
        block: Any = layer.transformer_blocks[0]
        tokens = self._attention(block.attn1, block.norm1(tokens)) + tokens
        tokens = self._attention(block.attn2, block.norm2(tokens), text) + tokens

        # Temporal attention sees the video's frames of each position; the images' tokens are cut off and put back.
        folded = tokens.unflatten(0, (batch, -1))
        video, images = folded[:, : self.video], folded[:, self.video :]
        sequences = video.transpose(1, 2).flatten(0, 1)  # (B S, F, C), a copy
        sequences = _temporal(block.attn_temp, block.norm_temp(sequences)) + sequences
        video = sequences.unflatten(0, (batch, -1)).transpose(1, 2)
        tokens = torch.cat([video, images], 1).flatten(0, 1)

        gate: Any = block.ff.net[0].proj
        value, gates = gate(block.norm3(tokens)).chunk(2, dim=-1)
        tokens = block.ff.net[2](value * F.gelu(gates)) + tokens
        h = tokens.unflatten(1, size).permute(0, 3, 1, 2).contiguous()
        return (layer.proj_out(h) + x).unflatten(0, (batch, -1)).transpose(1, 2)

    def _attention(self, attn: Any, x: Tensor, text: Tensor | None = None) -> Tensor:
        """Attend within the frames of x (N, S, C), or from them to the text (N, L, D)."""
        read = x if text is None else text
        layers = ((attn.to_q, x), (attn.to_k, read), (attn.to_v, read))
        q, k, v = (_heads_first(layer(given), attn.heads) for layer, given in layers)
        if self.fused_attention:
            heads = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            heads = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return attn.to_out[0](_heads_last(heads, attn.heads))


def _pooled_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalise clips (B, C, F, H, W) with statistics over all their frames."""
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _temporal(attn: Any, x: Tensor) -> Tensor:
    """Attend within sequences x (N, F, C), with RoPE on queries and keys and a bias per pair of frames."""
    frames = x.shape[1]
    layers = (attn.to_q, attn.to_k, attn.to_v)
    q, k, v = (_heads_first(layer(x), attn.heads).unflatten(0, (-1, attn.heads)) for layer in layers)
    angle = torch.arange(frames)[:, None] * rotary_frequencies(attn.rotary_dim)
    cosines, sines = (t.repeat_interleave(2, -1).to(x) for t in (angle.cos(), angle.sin()))

    def turn(x: Tensor) -> Tensor:
        """Turn the first dims of x (N, heads, F, D) by RoPE."""
        turning, rest = x[..., : attn.rotary_dim], x[..., attn.rotary_dim :]
        a, b = turning.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.cat([turning * cosines + torch.stack([-b, a], -1).flatten(-2) * sines, rest], -1)

    scores = turn(q * q.shape[-1] ** -0.5) @ turn(k).transpose(-1, -2)
    if attn.time_rel_pos_bias is not None:
        table = attn.time_rel_pos_bias.relative_attention_bias
        scores = scores + table(distance_buckets(frames).to(x.device)).permute(2, 0, 1)
    scores = scores - scores.amax(-1, keepdim=True).detach()
    return attn.to_out[0](_heads_last((scores.softmax(-1) @ v).flatten(0, 1), attn.heads))


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """Copy tokens (N, S, C) to the heads' sequences, (N * heads, S, head_dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _heads_last(x: Tensor, heads: int) -> Tensor:
    """Undo `_heads_first`, by a copy too."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
