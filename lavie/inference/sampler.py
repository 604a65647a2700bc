"""From prompts to clips: guided sampling with the base network."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.guidance import guided
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from ..seeds import torch_generator
from .schedulers import make_scheduler, set_timesteps


class TextToVideo:
    """Samples clips, or images, from a base network and its frozen encoders."""

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
        schedule: NoiseSchedule,
    ) -> None:
        """
        Args:
            network: (sample (B, C, F, H, W), timestep int64 (B,), text (B, 1+N, L, D), num_images=N) -> like sample. It
                runs in the dtype and on the device of its parameters.
            autoencoder: `decode(latents (B, C, h, w)) -> (B, 3, H, W)` in [-1, 1]; `stride`: pixels per latent;
                `channels`: C.
            text_encoder: n captions -> (n, L, D).
            schedule: the one of the training run.
        """
        self.network = network
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.schedule = schedule

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        num_frames: int,
        height: int,
        width: int,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        seed: int = 0,
        scheduler: str = "ddim",
        negative_prompt: str = "",
        indices: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Clips for `prompts`: uint8 (B, F, H, W, 3).

        Args:
            num_frames: F. 1 asks for images, which pass by the temporal layers.
            height, width: in pixels, multiples of the autoencoder's stride.
            guidance_scale: up to 1 the unconditional prediction is not computed at all.
            seed, indices: prompt i's noise depends only on (seed, indices[i]), not on its batch; default 0, 1, 2 ...
            negative_prompt: takes the empty caption's place in the unconditional prediction.
            progress: called after each step as progress(step, steps), step from 1.

        Raises:
            ConfigError: a size or number of steps that cannot be sampled.
        """
        stride = self.autoencoder.stride
        if num_frames < 1:
            raise ConfigError(f"num_frames: got {num_frames}, wanted at least 1 (1 is an image)")
        if height < 1 or width < 1 or height % stride or width % stride:
            raise ConfigError(f"height x width: got {height} x {width}, wanted positive multiples of {stride}")
        indices = range(len(prompts)) if indices is None else indices
        if not prompts or len(indices) != len(prompts):
            raise ConfigError(
                f"got {len(prompts)} prompts and {len(indices)} indices: wanted one index for each, at least 1"
            )

        device = next(self.network.parameters()).device
        generators = [torch_generator(seed, "sample", index) for index in indices]
        shape = (self.autoencoder.channels, num_frames, height // stride, width // stride)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
        predict = self._predictor(prompts, negative_prompt, guidance_scale, num_images=int(num_frames == 1))

        steps = make_scheduler(scheduler, self.schedule)
        set_timesteps(steps, num_inference_steps, device)
        latents = noise * steps.init_noise_sigma
        for number, t in enumerate(steps.timesteps, start=1):
            output = predict(steps.scale_model_input(latents, t), t.long())
            latents = steps.step(output, t, latents, generator=generators).prev_sample
            if progress:
                progress(number, len(steps.timesteps))
        return self._decode(latents)

    def _predictor(
        self, prompts: Sequence[str], negative_prompt: str, scale: float, num_images: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t float32 (B, C, F, h, w), timestep int64 ()) -> the guided output, float32."""
        parameter = next(self.network.parameters())
        guide = scale > 1
        captions = ([negative_prompt] * len(prompts) if guide else []) + list(prompts)
        text = self.text_encoder(captions).to(parameter)
        # Text is the clip's, then one per image: an image alone has no clip, but the clip's place stays.
        text = text[:, None].expand(-1, 1 + num_images, -1, -1)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            sample = torch.cat([x_t, x_t]) if guide else x_t
            timestep = t.to(sample.device).expand(len(sample))
            output = self.network(sample.to(parameter.dtype), timestep, text, num_images=num_images).float()
            if not guide:
                return output
            unconditional, conditional = output.chunk(2)
            return guided(unconditional, conditional, scale)

        return predict

    def _decode(self, latents: Tensor) -> np.ndarray:
        """(B, C, F, h, w) -> uint8 (B, F, H, W, 3)."""
        batch = len(latents)
        pixels = self.autoencoder.decode(latents.transpose(1, 2).flatten(0, 1))
        pixels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).unflatten(0, (batch, -1)).cpu().numpy()
