"""The levels of the UNet: residual blocks, each followed by a transformer where the level attends to text."""

from collections.abc import Callable

from torch import Tensor, nn

from .attention import SpatialTransformer
from .frames import Frames
from .resnet import Downsample, ResnetBlock, Upsample

Run = Callable[..., Tensor]
"""What calls a block, with or without gradient checkpointing: run(block, *inputs) is block(*inputs)."""


class DownBlock(nn.Module):
    """One level on the way down: residual blocks, transformers if the level attends to text, and a downsampler."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[SpatialTransformer], downsample: Downsample | None):
        super().__init__()
        self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers = nn.ModuleList([downsample] if downsample else [])

    def forward(self, x: Tensor, time: Tensor, text: Tensor, frames: Frames, run: Run) -> list[Tensor]:
        """Return the outputs of all layers in order, for the skip connections; the last one goes on down."""
        outputs = []
        for i, resnet in enumerate(self.resnets):
            x = run(resnet, x, time, frames)
            if self.attentions:
                x = run(self.attentions[i], x, text, frames)
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(downsample(x))
        return outputs


class MidBlock(nn.Module):
    """The coarsest level: residual block, transformer, residual block."""

    def __init__(self, resnets: list[ResnetBlock], attention: SpatialTransformer):
        super().__init__()
        self.attentions = nn.ModuleList([attention])
        self.resnets = nn.ModuleList(resnets)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, frames: Frames, run: Run) -> Tensor:
        """Map x (B * F, C, H, W) to a tensor like it; time: (B, T), text: (B, 1 + images, L, D)."""
        x = run(self.resnets[0], x, time, frames)
        x = run(self.attentions[0], x, text, frames)
        return run(self.resnets[1], x, time, frames)


class UpBlock(nn.Module):
    """One level on the way up: takes a skip connection before each residual block."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[SpatialTransformer], upsample: Upsample | None):
        super().__init__()
        self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        self.upsamplers = nn.ModuleList([upsample] if upsample else [])

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        size: tuple[int, int] | None,
        time: Tensor,
        text: Tensor,
        frames: Frames,
        run: Run,
    ) -> Tensor:
        """Map x (B * F, C, H, W) to the input of the next level up.

        Args:
            skips: one per residual block, the deepest last.
            size: the height and width to upsample to, if the level has an upsampler.
        """
        for i, skip in zip(range(len(self.resnets)), reversed(skips), strict=True):
            x = self.layer(i, x, skip, time, text, frames, run)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x

    def layer(self, i: int, x: Tensor, skip: Tensor, time: Tensor, text: Tensor, frames: Frames, run: Run) -> Tensor:
        """Apply layer `i`, a residual block and its transformer, to x and a skip connection (B * F, C, H, W)."""
        x = run(self.resnets[i], x, time, frames, skip)
        return run(self.attentions[i], x, text, frames) if self.attentions else x
