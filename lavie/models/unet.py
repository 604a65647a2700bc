"""The video UNet: a Stable Diffusion UNet inflated to pseudo-3D (paper, section 4.1).

Parameter names are those of diffusers' UNet2DConditionModel for the spatial part and LaVie's for the temporal one.
Inside, frames are folded into the batch and memory is channels last, (B, F, H, W, C), from the first to the last layer:
spatial layers see images, temporal layers see views of the same memory. Images of a joint batch lie behind its clips.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import UNetConfig
from .attention import SpatialTransformer
from .blocks import DownBlock, MidBlock, UpBlock
from .embeddings import TimestepEmbedding, sinusoid
from .resnet import Downsample, Frames, GroupNorm, ResnetBlock, Upsample


class VideoUNet(nn.Module):
    """Predicts the noise (or v) of latents, given the timestep and the text."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        channels, time_channels = config.block_out_channels, 4 * config.block_out_channels[0]

        def resnets(widths: Sequence[int], out: int) -> list[ResnetBlock]:
            return [ResnetBlock(width, out, time_channels, config.norm_num_groups) for width in widths]

        def transformers(level: int, count: int) -> list[SpatialTransformer]:
            return [
                SpatialTransformer(
                    channels[level],
                    config.heads[level],
                    config.cross_attention_dim,
                    config.norm_num_groups,
                    config.rotary_dim,
                    config.relative_bias,
                )
                for _ in range(count)
            ]

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)

        levels, depth = len(channels), config.layers_per_block
        self.down_blocks = nn.ModuleList()
        skip_widths = [channels[0]]
        for level, out in enumerate(channels):
            last = level == levels - 1
            self.down_blocks.append(
                DownBlock(
                    resnets([skip_widths[-1]] + [out] * (depth - 1), out),
                    transformers(level, depth) if config.cross_attention[level] else [],
                    None if last else Downsample(out),
                )
            )
            skip_widths += [out] * (depth if last else depth + 1)

        self.mid_block = MidBlock(resnets([channels[-1]] * 2, channels[-1]), transformers(levels - 1, 1)[0])

        self.up_blocks = nn.ModuleList()
        width = channels[-1]
        for level in reversed(range(levels)):
            out = channels[level]
            self.up_blocks.append(
                UpBlock(
                    resnets([w + skip_widths.pop() for w in [width] + [out] * depth], out),
                    transformers(level, depth + 1) if config.cross_attention[level] else [],
                    Upsample(out) if level else None,
                )
            )
            width = out

        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *, num_images: int = 0
    ) -> Tensor:
        """sample (B, C, F, H, W), timestep (B,) -> (B, out_channels, F, H, W).

        encoder_hidden_states: (B, L, D), or (B, 1 + num_images, L, D) where the last `num_images` of the F frames are
        independent images with their own text: they pass by the temporal layers.
        """
        batch, _, total, *_ = sample.shape
        text = encoder_hidden_states if encoder_hidden_states.ndim == 4 else encoder_hidden_states[:, None]
        text_channels = self.config.cross_attention_dim
        fits = text.ndim == 4 and text.shape[:2] == (batch, 1 + num_images) and text.shape[3] == text_channels
        if not fits or not 0 <= num_images <= total:
            raise ValueError(
                f"encoder_hidden_states {tuple(encoder_hidden_states.shape)} does not fit sample {tuple(sample.shape)} "
                f"with num_images={num_images}: wanted ({batch}, {1 + num_images}, L, {text_channels})"
            )
        frames = Frames(total - num_images, num_images, self.config.norm_statistics == "pooled")
        time = self.time_embedding(sinusoid(timestep, self.config.block_out_channels[0]).to(sample.dtype))

        x = self.conv_in(frames.fold(sample))
        skips = [x]
        for down in self.down_blocks:
            skips += down(skips[-1], time, text, frames, self._run)
        x = self.mid_block(skips[-1], time, text, frames, self._run)
        per_level = self.config.layers_per_block + 1
        for up in self.up_blocks:
            # Handed over as a slice: ZeRO-3 copies lists on their way into a module, so a block cannot pop from ours.
            skips, taken = skips[:-per_level], skips[-per_level:]
            x = up(x, taken, tuple(skips[-1].shape[2:]) if skips else None, time, text, frames, self._run)
        return frames.unfold(self.conv_out(self.conv_norm_out(x, frames, silu=True)))

    def _run(self, block: nn.Module, *inputs) -> Tensor:
        """One residual block or transformer; with gradient checkpointing its activations are recomputed in backward."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
