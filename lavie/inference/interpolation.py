"""The second stage: from key frames to a clip of a higher frame rate (paper, section 4.2)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.condition import spread_key_frames
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from .chunking import windows
from .frames import DECODE_TILE, check_frames, decode, encode
from .sampler import Condition, Progress, Sampler, check_prompts

WINDOW, OVERLAP = 16, 4
"""Key frames that the network sees at once (as in training), and that neighbouring windows share."""


class Interpolator(Sampler):
    """Fills the time between key frames; every frame is made anew, the key frames too."""

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
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        seed: int = 0,
        scheduler: str = "ddim",
        negative_prompt: str = "None",
        indices: Sequence[int] | None = None,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        decode_tile: int = DECODE_TILE,
        sequential_guidance: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Clips that pass through the key frames: uint8 (B, (K - 1) * keyframe_interval + 1, H, W, 3).

        Args:
            keys: key frames, uint8 (B, K, H, W, 3), K >= 2; or their latents, float (B, C, K, h, w). Frames are encoded
                to the means of their posteriors.
            prompts: one for each clip.
            window, overlap: in key frames. Clips of more than `window` are sampled in overlapping windows along time,
                whose outputs are blended at every step.
            The others as for TextToVideo, with the released defaults of this stage.

        Raises:
            ConfigError: key frames, sizes, windows or a number of steps that cannot be sampled.
        """
        indices = check_prompts(prompts, indices)
        if isinstance(keys, Tensor) and keys.is_floating_point():
            latents = self._checked(keys, len(prompts)).to(self.device).float()
        else:
            check_frames(keys, len(prompts), "key frames")
            latents = encode(self.autoencoder, keys, self.device, decode_tile)
        low_res = spread_key_frames(latents, self.keyframe_interval)
        shape = low_res.shape[1:]
        result = self._denoise(
            shape,
            prompts,
            purpose="interpolation",
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            scheduler=scheduler,
            negative_prompt=negative_prompt,
            indices=indices,
            sequential_guidance=sequential_guidance,
            progress=progress,
            axes=self.axes(shape[1:], window, overlap),
            condition=Condition(low_res),
        )
        return decode(self.autoencoder, result, decode_tile)

    def _checked(self, latents: Tensor, count: int) -> Tensor:
        channels = self.autoencoder.channels
        if latents.ndim != 5 or latents.shape[:2] != (count, channels):
            raise ConfigError(f"key latents: got {tuple(latents.shape)}, wanted ({count}, {channels}, K, h, w)")
        return latents

    def axes(self, shape: Sequence[int], window: int, overlap: int) -> list[list[slice]]:
        """The windows of latents (F, h, w): they begin and end at key frames, so that each is conditioned as a clip of
        its own would be."""
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
        time = windows(frames, (window - 1) * interval + 1, shared, multiple=interval, name="window")
        return [time, *([slice(0, length)] for length in shape[1:])]
