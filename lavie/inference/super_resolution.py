"""The third stage: four times the size (paper, section 4.3), in windows of bounded memory."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.unet import VideoUNet
from .chunking import Axis
from .latents import check_frames, decode, to_pixels
from .sampler import (
    ClipSize,
    Condition,
    Denoising,
    Sampler,
    StageSizes,
    check_prompts,
    require_whole_if_cached,
)
from .settings import StageSettings, VsrSettings


class SuperResolver(Sampler):
    """Samples clips whose frames have the autoencoder's stride times as many rows and columns as the frames given."""

    network: VideoUNet
    size_flags: ClassVar[str] = "--set vsr.window=..., vsr.overlap=..., vsr.tile=... or vsr.tile_overlap=..."

    @torch.no_grad()
    def __call__(self, frames: np.ndarray | Tensor, prompts: Sequence[str], **options: Any) -> np.ndarray:
        """Return enlarged clips: frames uint8 (B, F, h, w, 3) -> uint8 (B, F, stride * h, stride * w, 3).

        Longer clips than `window` are sampled in overlapping windows along time, larger frames than `tile` in
        overlapping tiles. Both move from step to step, and their outputs are blended at every step (see chunking.py).

        Args:
            frames: the low resolution, of any number and size.
            prompts: one for each clip.
            options: fields of `VsrSettings` (noise_level, window, tile, num_inference_steps ...), by default the
                released ones, and of `Denoising` (indices, sequential_guidance, progress). The noise over the low
                resolution depends on (seed, index) and is the same in both branches of guidance.

        Raises:
            ConfigError: frames, windows, a noise level or a number of steps that cannot be sampled.
        """
        call = Denoising.of(VsrSettings(), options)
        settings = call.settings
        indices = check_prompts(prompts, call.indices)
        check_frames(frames, len(prompts), "frames")
        self.check_noise_level(settings.noise_level)

        # The condition: the low resolution under noise of the asked level, drawn on the CPU clip by clip.
        pixels = to_pixels(frames, self.device).transpose(1, 2)
        shape = pixels.shape[1:]
        generators = self._generators("low-resolution noise", settings.seed, indices)
        noise = torch.stack([torch.randn(*shape, generator=generator) for generator in generators]).to(pixels)
        level = torch.full((len(prompts),), settings.noise_level, device=self.device)
        low_res = NoiseSchedule.of_low_resolution().add_noise(pixels, noise, level)

        latents = self._denoise(
            (self.autoencoder.channels, *shape[1:]),
            prompts,
            call,
            purpose="super-resolution",
            axes=self.axes(shape[1:], settings),
            condition=Condition(low_res, level),
        )
        return decode(self.autoencoder, latents, settings.decode_tile)

    def sizes(self, given: ClipSize, settings: VsrSettings) -> StageSizes:
        """Return the sizes of the enlarged clip; see `Sampler.sizes`."""
        frames, height, width = given
        stride = self.autoencoder.stride
        axes = self.axes(given, settings)
        require_whole_if_cached(settings.cache_interval, axes)
        return StageSizes((frames, height * stride, width * stride), given, axes)

    def require_steps(self, settings: StageSettings) -> None:
        """Check the steps and the noise level, without computing anything; see `Sampler.require_steps`."""
        super().require_steps(settings)
        assert isinstance(settings, VsrSettings)
        self.check_noise_level(settings.noise_level)

    def check_noise_level(self, noise_level: int) -> None:
        """Raise ConfigError unless the network was made for so much noise in the low resolution."""
        highest = self.network.config.highest_noise_level
        if not 0 <= noise_level <= highest:
            raise ConfigError(
                f"noise_level: got {noise_level}, wanted 0 .. {highest}; change --set vsr.noise_level=..."
            )

    def axes(self, shape: Sequence[int], settings: VsrSettings) -> list[Axis]:
        """Return the axes of latents (F, h, w), cut into the settings' windows and tiles.

        Raises:
            ConfigError: the windows or tiles cannot cover the clip.
        """
        # A tile must begin where the network's strided convolutions would begin a pixel of their coarsest level.
        multiple = 2 ** (len(self.network.config.block_out_channels) - 1)
        space = [
            Axis(length, size, settings.tile_overlap, multiple, name="tile")
            for length, size in zip(shape[1:], settings.tile, strict=True)
        ]
        return [Axis(shape[0], settings.window, settings.overlap), *space]
