"""The first stage: from prompts to short clips, or to images (paper, section 4.1)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import ConfigError
from .chunking import whole
from .latents import check_size, decode
from .sampler import ClipSize, Denoising, Sampler, StageSizes
from .settings import BaseSettings


class TextToVideo(Sampler):
    """Samples clips, or images, from a base network and its frozen encoders."""

    size_flags: ClassVar[str] = "--set base.height=... and base.width=..."

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], **options: Any) -> np.ndarray:
        """Return a clip for each prompt: uint8 (B, F, H, W, 3).

        Args:
            prompts: at least one.
            options: fields of `BaseSettings` (num_frames, height, width, num_inference_steps ...), by default the
                released ones, and of `Denoising` (indices, sequential_guidance, progress). One frame is an image, which
                passes by the temporal layers.

        Raises:
            ConfigError: a size or number of steps that cannot be sampled.
        """
        call = Denoising.of(BaseSettings(), options)
        settings, stride = call.settings, self.autoencoder.stride
        if settings.num_frames < 1:
            raise ConfigError(f"num_frames: got {settings.num_frames}, wanted at least 1 (1 is an image)")
        check_size(settings.height, settings.width, stride)
        shape = self.autoencoder.channels, settings.num_frames, settings.height // stride, settings.width // stride
        latents = self._denoise(shape, prompts, call, purpose="sample", num_images=int(settings.num_frames == 1))
        return decode(self.autoencoder, latents, settings.decode_tile)

    def sizes(self, given: ClipSize, settings: BaseSettings) -> StageSizes:
        """Return the sizes of a clip, `given`, that is sampled at once; see `Sampler.sizes`."""
        frames, height, width = given
        stride = self.autoencoder.stride
        check_size(height, width, stride)
        latents = frames, height // stride, width // stride
        return StageSizes(given, latents, whole(latents))
