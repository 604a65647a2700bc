"""The second stage: from key frames to a clip of a higher frame rate (paper, section 4.2)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..config.train import TrainConfig
from ..diffusion.condition import spread_key_frames
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from .chunking import Axis, whole
from .latents import check_frames, decode, encode
from .sampler import (
    ClipSize,
    Condition,
    Denoising,
    Sampler,
    StageSizes,
    check_prompts,
    require_whole_if_cached,
)
from .settings import InterpolationSettings


class Interpolator(Sampler):
    """Fills the time between key frames; every frame is made anew, the key frames too."""

    encodes: ClassVar[bool] = True
    size_flags: ClassVar[str] = "--set base.num_frames=..., interpolation.window=... or interpolation.overlap=..."

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
        schedule: NoiseSchedule,
        keyframe_interval: int = 4,
    ) -> None:
        """Join the parts of the stage.

        Args:
            network, autoencoder, text_encoder, schedule: as for `Sampler`.
            keyframe_interval: frames from one key frame to the next, as in the training run.
        """
        super().__init__(network, autoencoder, text_encoder, schedule)
        self.keyframe_interval = keyframe_interval

    @classmethod
    def of_run(
        cls,
        config: TrainConfig,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
    ) -> Self:
        """Return the sampler of a run's network, with the run's noise schedule and distance of key frames."""
        schedule = NoiseSchedule.from_config(config)
        return cls(network, autoencoder, text_encoder, schedule, config.keyframe_interval)

    @torch.no_grad()
    def __call__(self, keys: np.ndarray | Tensor, prompts: Sequence[str], **options: Any) -> np.ndarray:
        """Return clips that pass through the key frames: uint8 (B, (K - 1) * keyframe_interval + 1, H, W, 3).

        Clips of more than `window` key frames are sampled in overlapping windows along time, which move from step to
        step and whose outputs are blended at every step (see chunking.py).

        Args:
            keys: key frames, uint8 (B, K, H, W, 3), K >= 2; or their latents, float (B, C, K, h, w). Frames are encoded
                to the means of their posteriors.
            prompts: one for each clip.
            options: fields of `InterpolationSettings` (window, overlap, num_inference_steps ...), by default the
                released ones, and of `Denoising` (indices, sequential_guidance, progress).

        Raises:
            ConfigError: key frames, sizes, windows or a number of steps that cannot be sampled.
        """
        call = Denoising.of(InterpolationSettings(), options)
        settings = call.settings
        check_prompts(prompts, call.indices)
        if isinstance(keys, Tensor) and keys.is_floating_point():
            latents = self._checked(keys, len(prompts)).to(self.device).float()
        else:
            check_frames(keys, len(prompts), "key frames")
            latents = encode(self.autoencoder, keys, self.device, settings.decode_tile)

        low_res = spread_key_frames(latents, self.keyframe_interval)
        shape = low_res.shape[1:]
        result = self._denoise(
            shape,
            prompts,
            call,
            purpose="interpolation",
            axes=self.axes(shape[1:], settings.window, settings.overlap),
            condition=Condition(low_res),
        )
        return decode(self.autoencoder, result, settings.decode_tile)

    def sizes(self, given: ClipSize, settings: InterpolationSettings) -> StageSizes:
        """Return the sizes of the clip between the key frames `given`; see `Sampler.sizes`."""
        keys, height, width = given
        stride = self.autoencoder.stride
        frames = (keys - 1) * self.keyframe_interval + 1
        latents = frames, height // stride, width // stride
        axes = self.axes(latents, settings.window, settings.overlap)
        require_whole_if_cached(settings.cache_interval, axes)
        return StageSizes((frames, height, width), latents, axes)

    def _checked(self, latents: Tensor, count: int) -> Tensor:
        """Return `latents`, or raise ConfigError unless they are the autoencoder's, of `count` clips."""
        channels = self.autoencoder.channels
        if latents.ndim != 5 or latents.shape[:2] != (count, channels):
            raise ConfigError(f"key latents: got {tuple(latents.shape)}, wanted ({count}, {channels}, K, h, w)")
        return latents

    def axes(self, shape: Sequence[int], window: int, overlap: int) -> list[Axis]:
        """Return the axes of latents (F, h, w), cut along time.

        Windows begin and end at key frames, so that each is conditioned as a clip of its own would be.

        Args:
            window, overlap: in key frames.

        Raises:
            ConfigError: there is one key frame only, or the windows cannot cover the clip.
        """
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
