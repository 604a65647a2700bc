"""The third stage: four times the size (paper, section 4.3), in windows of bounded memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.unet import VideoUNet
from .chunking import Axis
from .frames import check_frames, decode, to_pixels
from .sampler import Condition, Denoising, Sampler, check_prompts

WINDOW, OVERLAP = 8, 2
"""Frames that the network sees at once (as released), and that neighbouring windows share."""
TILE, TILE_OVERLAP = (320, 512), 32
"""Rows and columns of the low resolution that the network sees at once, and that neighbouring tiles share."""


class SuperResolver(Sampler):
    """Samples clips whose frames have the autoencoder's stride times as many rows and columns."""

    network: VideoUNet
    defaults: ClassVar[Denoising] = Denoising(guidance_scale=5.0, negative_prompt="blur, worst quality")

    @torch.no_grad()
    def __call__(
        self,
        frames: np.ndarray | Tensor,
        prompts: Sequence[str],
        *,
        noise_level: int = 50,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        tile: tuple[int, int] = TILE,
        tile_overlap: int = TILE_OVERLAP,
        **options: Any,
    ) -> np.ndarray:
        """Enlarged clips: frames uint8 (B, F, h, w, 3) -> uint8 (B, F, stride * h, stride * w, 3).

        Args:
            frames: the low resolution, of any number and size.
            prompts: one for each clip.
            noise_level: the noise that is laid over the low resolution, 0 .. the network's max_noise_level: more lets
                the network invent more. It depends on (seed, index) and is the same in both branches of guidance.
            window, overlap: in frames. Longer clips are sampled in overlapping windows along time.
            tile, tile_overlap: in pixels of the low resolution. Larger frames are sampled in overlapping tiles. The
                windows and tiles move from step to step, and their outputs are blended at every step (see chunking.py).
            options: of `Denoising`; defaults: `SuperResolver.defaults`.

        Raises:
            ConfigError: frames, windows, a noise level or a number of steps that cannot be sampled.
        """
        how = replace(self.defaults, **options)
        indices = check_prompts(prompts, how.indices)
        check_frames(frames, len(prompts), "frames")
        self.check_noise_level(noise_level)
        pixels = to_pixels(frames, self.device).transpose(1, 2)
        shape = pixels.shape[1:]
        drawn = [torch.randn(*shape, generator=g) for g in self._generators("low-resolution noise", how.seed, indices)]
        level = torch.full((len(prompts),), noise_level, device=self.device)
        low_res = NoiseSchedule.of_low_resolution().add_noise(pixels, torch.stack(drawn).to(pixels), level)
        latents = self._denoise(
            (self.autoencoder.channels, *shape[1:]),
            prompts,
            how,
            purpose="super-resolution",
            axes=self.axes(shape[1:], window, overlap, tile, tile_overlap),
            condition=Condition(low_res, level),
        )
        return decode(self.autoencoder, latents, how.decode_tile)

    def check_noise_level(self, noise_level: int) -> None:
        """Raise ConfigError unless the network was made for so much noise in the low resolution."""
        highest = self.network.config.highest_noise_level
        if not 0 <= noise_level <= highest:
            raise ConfigError(f"noise_level: got {noise_level}, wanted 0 .. {highest}")

    def axes(
        self, shape: Sequence[int], window: int, overlap: int, tile: tuple[int, int], tile_overlap: int
    ) -> list[Axis]:
        """The axes of latents (F, h, w), cut into windows and tiles."""
        # A tile must begin where the network's strided convolutions would begin a pixel of their coarsest level.
        multiple = 2 ** (len(self.network.config.block_out_channels) - 1)
        space = [
            Axis(length, size, tile_overlap, multiple, name="tile")
            for length, size in zip(shape[1:], tile, strict=True)
        ]
        return [Axis(shape[0], window, overlap), *space]
