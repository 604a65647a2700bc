"""The video UNet: a Stable Diffusion UNet inflated to pseudo-3D (paper, section 4.1).

Parameter names are those of diffusers' UNet2DConditionModel for the spatial part and LaVie's for the temporal one.
Inside, frames are folded into the batch and memory is channels last, (B, F, H, W, C), from the first to the last layer:
spatial layers see images, temporal layers see views of the same memory. Images of a joint batch lie behind its clips.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config.model import UNetConfig
from .attention import SpatialTransformer
from .blocks import DownBlock, MidBlock, UpBlock
from .embeddings import TimestepEmbedding, sinusoid
from .frames import Frames
from .resnet import Downsample, GroupNorm, ResnetBlock, Upsample
from .temporal import TemporalModule


class VideoUNet(nn.Module):
    """The network that predicts the noise (or v) of latents, given the timestep and the text."""

    def __init__(self, config: UNetConfig):
        """Build the levels that the config names, with fresh weights."""
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self._build(config)

    def _build(self, config: UNetConfig) -> None:
        """Add the layers that the config names."""
        channels, time_channels = config.block_out_channels, 4 * config.block_out_channels[0]

        def resnets(widths: Sequence[int], out: int) -> list[ResnetBlock]:
            """Build a residual block for each input width."""
            return [ResnetBlock(width, out, time_channels, config.norm_num_groups) for width in widths]

        def transformers(level: int, count: int) -> list[SpatialTransformer]:
            """Build the transformers of a level."""
            return [SpatialTransformer(config, level, config.text_only[level]) for _ in range(count)]

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)
        self.class_embedding = nn.Embedding(config.num_noise_levels, time_channels) if config.num_noise_levels else None

        # Down: every layer's output is a skip connection, whose width the way up must know.
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

        self.mid_block = MidBlock(
            resnets([channels[-1]] * 2, channels[-1]), SpatialTransformer(config, levels - 1, False)
        )

        # Up: one layer more a level, each with the skip connection of its counterpart beside its input.
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

        if config.temporal_convolutions:
            self.down_temporal_blocks = nn.ModuleList([TemporalModule(c, time_channels) for c in channels])
            self.mid_temporal_block = TemporalModule(channels[-1], time_channels)
            self.up_temporal_blocks = nn.ModuleList([TemporalModule(c, time_channels) for c in reversed(channels)])

        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        low_res: Tensor | None = None,
        noise_level: Tensor | None = None,
        num_images: int = 0,
    ) -> Tensor:
        """Predict from noisy latents: (B, C, F, H, W) -> (B, out_channels, F, H, W).

        Args:
            sample: noisy latents (B, C, F, H, W).
            timestep: (B,).
            encoder_hidden_states: text features (B, L, D), or (B, 1 + num_images, L, D) where the last `num_images` of
                the F frames are independent images with their own text: they pass by the temporal layers.
            low_res: conditioning frames (B, in_channels - C, F, H, W), joined to the sample's channels.
            noise_level: int64 (B,), of low_res; wanted if and only if the network embeds noise levels.
            num_images: independent images behind the frames of each clip.

        Raises:
            ValueError: shapes do not fit the network or one another.
        """
        # Down, keeping the output of every layer for the skip connections, then through the coarsest level.
        x, time, text, frames = self.enter(
            sample, timestep, encoder_hidden_states, low_res=low_res, noise_level=noise_level, num_images=num_images
        )
        skips = [x]
        for level, down in enumerate(self.down_blocks):
            outputs = down(x, time, text, frames, self._run)
            skips += outputs
            x = self._temporal("down_temporal_blocks", level, outputs[-1], time, frames)
        x = self.mid_block(x, time, text, frames, self._run)
        x = self._temporal("mid_temporal_block", None, x, time, frames)

        # Up, each level taking back the skips of its counterpart.
        per_level = self.config.layers_per_block + 1
        for level, up in enumerate(self.up_blocks):
            if level:
                x = self._temporal("up_temporal_blocks", level - 1, x, time, frames)
            # Handed over as a slice: ZeRO-3 copies lists on their way into a module, so a block cannot pop from ours.
            skips, taken = skips[:-per_level], skips[-per_level:]
            x = up(x, taken, tuple(skips[-1].shape[2:]) if skips else None, time, text, frames, self._run)
        return self.leave(x, time, frames)

    def enter(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *,
        low_res: Tensor | None = None,
        noise_level: Tensor | None = None,
        num_images: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Frames]:
        """Begin `forward`, whose arguments and errors these are.

        Returns:
            the features of the input convolution (B * F, C, H, W), which are the last skip connection, SiLU of the
            embedding of the timestep (B, T), the text (B, 1 + num_images, L, D), and how frames are folded.
        """
        # One text for a clip, and one for each image; the timestep and the noise level become one embedding.
        total = sample.shape[2]
        text = encoder_hidden_states if encoder_hidden_states.ndim == 4 else encoder_hidden_states[:, None]
        self._check(sample, low_res, noise_level, text, encoder_hidden_states.shape, num_images)
        frames = Frames(total - num_images, num_images, self.config.norm_statistics == "pooled")
        time = self.time_embedding(sinusoid(timestep, self.config.block_out_channels[0]).to(sample.dtype))
        if self.class_embedding is not None:
            time = time + self.class_embedding(noise_level)
        x = self.conv_in(frames.fold(sample if low_res is None else torch.cat([sample, low_res], 1)))
        return x, F.silu(time), text, frames

    def leave(self, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """End `forward`: from what the last level gives, (B * F, C, H, W), to the output (B, out_channels, F, H, W)."""
        x = self._temporal("up_temporal_blocks", len(self.up_blocks) - 1, x, time, frames)
        return frames.unfold(self.conv_out(self.conv_norm_out(x, frames, silu=True)))

    def _temporal(self, name: str, level: int | None, x: Tensor, time: Tensor, frames: Frames) -> Tensor:
        """Apply the temporal module that follows a level, if the network has them."""
        if not self.config.temporal_convolutions or not frames.video:
            return x
        module = getattr(self, name)
        return self._run(module if level is None else module[level], x, time, frames)

    def _check(
        self,
        sample: Tensor,
        low_res: Tensor | None,
        noise_level: Tensor | None,
        text: Tensor,
        text_shape: torch.Size,
        num_images: int,
    ) -> None:
        """Raise ValueError if the inputs do not fit the network; `text_shape` is that of the text as it was given."""
        batch, channels, total = sample.shape[:3]
        text_channels = self.config.cross_attention_dim
        fits = text.ndim == 4 and text.shape[:2] == (batch, 1 + num_images) and text.shape[3] == text_channels
        if not fits or not 0 <= num_images <= total:
            raise ValueError(
                f"encoder_hidden_states {tuple(text_shape)} does not fit sample {tuple(sample.shape)} "
                f"with num_images={num_images}: wanted ({batch}, {1 + num_images}, L, {text_channels})"
            )

        # The channels that the sample lacks are those of the condition.
        condition = self.config.in_channels - channels
        wanted = (batch, condition, *sample.shape[2:])
        if condition != (0 if low_res is None else low_res.shape[1]) or (
            low_res is not None and low_res.shape != wanted
        ):
            raise ValueError(
                f"the network takes {self.config.in_channels} channels and got a sample {tuple(sample.shape)} with "
                f"low_res {None if low_res is None else tuple(low_res.shape)}: wanted "
                + (f"low_res {wanted}" if condition else "no low_res")
            )

        if (noise_level is None) != (self.class_embedding is None):
            raise ValueError(f"noise_level is {noise_level}, the network embeds {self.config.num_noise_levels} levels")

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """Run a residual block or a transformer; gradient checkpointing computes its activations again in backward."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
