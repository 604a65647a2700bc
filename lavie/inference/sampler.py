"""One denoising loop for the whole cascade, and the first of its three samplers: from prompts to clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.guidance import guided
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from ..seeds import torch_generator
from .chunking import Axes, Place, whole, windowed, within
from .frames import DECODE_TILE, check_size, decode
from .schedulers import make_scheduler, set_timesteps, step

Progress = Callable[[int, int], None]
"""Called after each denoising step as progress(step, steps), step from 1."""


@dataclass(frozen=True)
class Condition:
    """What a network of the later stages reads beside the noisy latents."""

    low_res: Tensor
    """(B, D, F, h, w) on the latents' grid."""
    noise_level: Tensor | None = None
    """int64 (B,), of `low_res`."""


@dataclass(frozen=True)
class Denoising:
    """How a clip is made from noise. Every sampler takes these as keyword arguments."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    """Up to 1 the unconditional prediction is not computed at all."""
    scheduler: str = "ddim"
    seed: int = 0
    indices: Sequence[int] | None = None
    """Prompt i's noise depends only on (seed, indices[i]), not on its batch; default 0, 1, 2 ..."""
    negative_prompt: str = ""
    """Takes the empty caption's place in the unconditional prediction."""
    decode_tile: int = DECODE_TILE
    """Latents, along both axes, that go through the autoencoder at once; larger frames go in overlapping tiles."""
    sequential_guidance: bool = False
    """Compute the two predictions one after the other, in about half of the memory."""
    progress: Progress | None = None
    """Called after each step as progress(step, steps), step from 1."""


class Sampler:
    """A network with its frozen encoders and its noise schedule: what all stages sample with."""

    defaults: ClassVar[Denoising] = Denoising()
    """Those of the released code."""

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
        schedule: NoiseSchedule,
    ) -> None:
        """
        Args:
            network: (sample (B, C, F, H, W), timestep int64 (B,), text (B, 1+N, L, D), num_images=N) -> like sample;
                in the later stages with low_res (B, D, F, H, W) and, for super-resolution, noise_level int64 (B,). It
                runs in the dtype and on the device of its parameters.
            autoencoder: `decode(latents (B, C, h, w)) -> (B, 3, H, W)` in [-1, 1], and `encode` back; `stride`: pixels
                per latent; `channels`: C.
            text_encoder: n captions -> (n, L, D).
            schedule: the one of the training run.
        """
        self.network = network
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.schedule = schedule

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the network and its encoders, in place."""
        for part in (self.network, self.autoencoder, self.text_encoder):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def _generators(self, purpose: str, seed: int, indices: Sequence[int]) -> list[torch.Generator]:
        return [torch_generator(seed, purpose, index) for index in indices]

    def _denoise(
        self,
        shape: Sequence[int],
        prompts: Sequence[str],
        how: Denoising,
        *,
        purpose: str,
        axes: Axes | None = None,
        condition: Condition | None = None,
        num_images: int = 0,
    ) -> Tensor:
        """Latents float32 (B, *shape), from noise.

        Args:
            shape: (C, F, h, w).
            purpose: the name of the noise (see seeds.py).
            axes: frames, rows and columns, whose windows go through the network one by one; default: all at once. At
                every step the network's outputs of all windows are blended before the step is taken.
        """
        generators = self._generators(purpose, how.seed, check_prompts(prompts, how.indices))
        noise = torch.stack([torch.randn(*shape, generator=generator) for generator in generators]).to(self.device)
        predict = self._predictor(prompts, how, condition, num_images=num_images)
        axes = axes or whole(shape[1:])
        steps = make_scheduler(how.scheduler, self.schedule)
        set_timesteps(steps, how.num_inference_steps, self.device)
        latents = noise * steps.init_noise_sigma
        for number, t in enumerate(steps.timesteps):
            x_t = steps.scale_model_input(latents, t)
            output = windowed(partial(predict, x_t, t.long()), axes, step=number)
            latents = step(steps, output, t, latents, generators)
            if how.progress:
                how.progress(number + 1, len(steps.timesteps))
        return latents

    def _predictor(
        self,
        prompts: Sequence[str],
        how: Denoising,
        condition: Condition | None,
        *,
        num_images: int,
    ) -> Callable[[Tensor, Tensor, Place], Tensor]:
        """(x_t float32 (B, C, F, h, w), timestep int64 (), window) -> the guided output for the window, float32."""
        parameter = next(self.network.parameters())
        branches = [list(prompts)]
        if how.guidance_scale > 1:
            branches.insert(0, [how.negative_prompt] * len(prompts))
        # Text is the clip's, then one per image: an image alone has no clip, but the clip's place stays.
        texts = [self.text_encoder(b).to(parameter)[:, None].expand(-1, 1 + num_images, -1, -1) for b in branches]
        if not how.sequential_guidance:
            texts = [torch.cat(texts)]

        def run(sample: Tensor, t: Tensor, text: Tensor, place: Place) -> Tensor:
            copies = len(text) // len(sample)

            def repeated(x: Tensor) -> Tensor:
                return x.repeat(copies, *(1,) * (x.dim() - 1))

            given: dict[str, Tensor | None] = {}
            if condition is not None:
                given["low_res"] = repeated(within(condition.low_res, place)).to(parameter.dtype)
                given["noise_level"] = None if condition.noise_level is None else repeated(condition.noise_level)
            timestep = t.to(sample.device).expand(len(text))
            output = self.network(repeated(sample).to(parameter.dtype), timestep, text, **given, num_images=num_images)
            return output.float()

        def predict(x_t: Tensor, t: Tensor, place: Place) -> Tensor:
            sample = within(x_t, place)
            outputs = [run(sample, t, text, place) for text in texts]
            if len(branches) == 1:
                return outputs[0]
            unconditional, conditional = outputs if how.sequential_guidance else outputs[0].chunk(2)
            return guided(unconditional, conditional, how.guidance_scale)

        return predict


def check_prompts(prompts: Sequence[str], indices: Sequence[int] | None) -> Sequence[int]:
    """`indices`, by default 0, 1, 2 ...; ConfigError unless there is one for each of at least 1 prompt."""
    indices = range(len(prompts)) if indices is None else indices
    if not prompts or len(indices) != len(prompts):
        raise ConfigError(
            f"got {len(prompts)} prompts and {len(indices)} indices: wanted one index for each, at least 1"
        )
    return indices


class TextToVideo(Sampler):
    """Samples clips, or images, from a base network and its frozen encoders."""

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        num_frames: int,
        height: int,
        width: int,
        **options: Any,
    ) -> np.ndarray:
        """Clips for `prompts`: uint8 (B, F, H, W, 3).

        Args:
            num_frames: F. 1 asks for images, which pass by the temporal layers.
            height, width: in pixels, multiples of the autoencoder's stride.
            options: of `Denoising`.

        Raises:
            ConfigError: a size or number of steps that cannot be sampled.
        """
        stride = self.autoencoder.stride
        if num_frames < 1:
            raise ConfigError(f"num_frames: got {num_frames}, wanted at least 1 (1 is an image)")
        check_size(height, width, stride)
        how = replace(self.defaults, **options)
        shape = self.autoencoder.channels, num_frames, height // stride, width // stride
        latents = self._denoise(shape, prompts, how, purpose="sample", num_images=int(num_frames == 1))
        return decode(self.autoencoder, latents, how.decode_tile)
