"""The second stage: from key frames to a clip of a higher frame rate (paper, section 4.2)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.condition import spread_key_frames
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from .chunking import Axis, whole
from .frames import check_frames, decode, encode
from .sampler import Condition, Denoising, Sampler, check_prompts

WINDOW, OVERLAP = 16, 4
"""Key frames that the network sees at once (as in training), and that neighbouring windows share."""


class Interpolator(Sampler):
    """Fills the time between key frames; every frame is made anew, the key frames too."""

    defaults: ClassVar[Denoising] = Denoising(guidance_scale=4.0, negative_prompt="None")

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
        schedule: NoiseSchedule,
        keyframe_interval: int = 4,
    ) -> None:
        """As `Sampler`; keyframe_interval: frames from one key frame to the next, as in the training run."""
        super().__init__(network, autoencoder, text_encoder, schedule)
        self.keyframe_interval = keyframe_interval

    @torch.no_grad()
    def __call__(
        self,
        keys: np.ndarray | Tensor,
        prompts: Sequence[str],
        *,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        **options: Any,
    ) -> np.ndarray:
        """Clips that pass through the key frames: uint8 (B, (K - 1) * keyframe_interval + 1, H, W, 3).

        Args:
            keys: key frames, uint8 (B, K, H, W, 3), K >= 2; or their latents, float (B, C, K, h, w). Frames are encoded
                to the means of their posteriors.
            prompts: one for each clip.
            window, overlap: in key frames. Clips of more than `window` are sampled in overlapping windows along time,
                which move from step to step and whose outputs are blended at every step (see chunking.py).
            options: of `Denoising`; defaults: `Interpolator.defaults`.

        Raises:
            ConfigError: key frames, sizes, windows or a number of steps that cannot be sampled.
        """
        how = replace(self.defaults, **options)
        check_prompts(prompts, how.indices)
        if isinstance(keys, Tensor) and keys.is_floating_point():
            latents = self._checked(keys, len(prompts)).to(self.device).float()
        else:
            check_frames(keys, len(prompts), "key frames")
            latents = encode(self.autoencoder, keys, self.device, how.decode_tile)
        low_res = spread_key_frames(latents, self.keyframe_interval)
        shape = low_res.shape[1:]
        result = self._denoise(
            shape,
            prompts,
            how,
            purpose="interpolation",
            axes=self.axes(shape[1:], window, overlap),
            condition=Condition(low_res),
        )
        return decode(self.autoencoder, result, how.decode_tile)

    def _checked(self, latents: Tensor, count: int) -> Tensor:
        channels = self.autoencoder.channels
        if latents.ndim != 5 or latents.shape[:2] != (count, channels):
            raise ConfigError(f"key latents: got {tuple(latents.shape)}, wanted ({count}, {channels}, K, h, w)")
        return latents

    def axes(self, shape: Sequence[int], window: int, overlap: int) -> list[Axis]:
        """The axes of latents (F, h, w), cut along time: windows begin and end at key frames, so that each is
        conditioned as a clip of its own would be."""
        frames, interval = shape[0], self.keyframe_interval
        if frames <= 1:
            raise ConfigError("key frames: got 1, between which nothing lies; wanted at least 2 (base.num_frames)")
        if window < 2 or not 0 <= overlap < window:
            raise ConfigError(
                f"window and overlap: got {window} and {overlap} key frames, wanted a window of at least 2 and an "
                "overlap below it"
            )
        # Windows that share `overlap` key frames share (overlap - 1) * interval + 1 frames, or one if they only touch.
        shared = max(overlap - 1, 0) * interval + 1
        return [Axis(frames, (window - 1) * interval + 1, shared, multiple=interval), *whole(shape[1:])]
