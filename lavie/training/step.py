"""From a batch of pixels and captions to the joint loss. Every random number comes from (seed, purpose, position)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import TrainConfig
from ..data.decoders import normalised
from ..data.loader import Batch
from ..diffusion.condition import spread_key_frames
from ..diffusion.loss import JointLoss, joint_loss, min_snr_weight
from ..diffusion.schedule import NoiseSchedule
from ..models.autoencoder import Autoencoder
from ..seeds import torch_generator, uniform


class Inputs(NamedTuple):
    """What the network reads and what it should say."""

    sample: Tensor
    """Noisy latents (B, C, F + N, h, w)."""
    timestep: Tensor
    """int64 (B,): one for a clip and its images."""
    text: Tensor
    """(B, 1 + N, L, D)."""
    target: Tensor
    """Like `sample`."""
    low_res: Tensor | None = None
    """The condition of the later stages: the key frames' latents spread over the clip, or low-resolution pixels."""
    noise_level: Tensor | None = None
    """int64 (B,): the noise in the low-resolution pixels."""


@dataclass
class Step:
    """The frozen parts around the network, and the loss."""

    config: TrainConfig
    autoencoder: Autoencoder
    text_encoder: torch.nn.Module
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    low_resolution_schedule: NoiseSchedule = field(default_factory=NoiseSchedule.of_low_resolution)

    def loss(self, network, inputs: Inputs) -> JointLoss:
        """Run the network (an engine or a module) on `inputs`."""
        config, images = self.config, inputs.text.shape[1] - 1
        sample, text = inputs.sample.to(self.dtype), inputs.text.to(self.dtype)
        # ZeRO-3 lets go of a block's weights when the gradient reaches the block's input. So every block, the first and
        # frozen ones too, needs an input that a gradient reaches.
        sample.requires_grad_(torch.is_grad_enabled())
        condition = {}
        if inputs.low_res is not None:
            condition = dict(low_res=inputs.low_res.to(self.dtype), noise_level=inputs.noise_level)
        output = network(sample, inputs.timestep, text, **condition, num_images=images)
        weight = None
        if config.snr_gamma is not None:
            weight = min_snr_weight(self.schedule.snr(inputs.timestep), config.snr_gamma, config.prediction_type)
        return joint_loss(
            output, inputs.target, num_images=images, image_loss_weight=config.image_loss_weight, weight=weight
        )

    def training_inputs(self, batch: Batch) -> Inputs:
        """Timesteps uniform over the schedule, captions dropped one by one with probability caption_dropout."""
        seed, positions = self.config.seed, batch["positions"].tolist()
        steps = self.schedule.num_train_timesteps
        timestep = torch.tensor([int(uniform(seed, "timestep", p) * steps) for p in positions])
        captions = [
            ["" if uniform(seed, "caption", p, i) < self.config.caption_dropout else c for i, c in enumerate(row)]
            for p, row in zip(positions, batch["captions"], strict=True)
        ]
        return self._inputs(batch, timestep, captions, purpose="")

    def validation_inputs(self, batch: Batch, timestep: int) -> Inputs:
        """One given timestep, every caption kept, and noise that no training step sees."""
        rows = batch["captions"]
        return self._inputs(batch, torch.full((len(rows),), timestep), rows, purpose="validation-")

    @torch.no_grad()
    def _inputs(self, batch: Batch, timestep: Tensor, captions: list[list[str]], purpose: str) -> Inputs:
        seed, positions = self.config.seed, batch["positions"].tolist()
        rows, total = batch["pixels"].shape[:2]
        pixels = batch["pixels"].to(self.device).flatten(0, 1)
        if pixels.dtype == torch.uint8:
            pixels = normalised(pixels)

        stride = self.autoencoder.stride
        shape = (total, self.autoencoder.channels, pixels.shape[2] // stride, pixels.shape[3] // stride)
        posterior, noise = (
            torch.stack([torch.randn(shape, generator=torch_generator(seed, purpose + kind, p)) for p in positions])
            for kind in ("posterior", "noise")
        )
        latents = self.autoencoder.encode(pixels, posterior.flatten(0, 1).to(self.device))
        latents = latents.unflatten(0, (rows, total)).transpose(1, 2)
        noise, timestep = noise.to(self.device).transpose(1, 2), timestep.to(self.device)
        text = self.text_encoder([caption for row in captions for caption in row]).unflatten(0, (rows, -1))
        return Inputs(
            self.schedule.add_noise(latents, noise, timestep),
            timestep,
            text.to(self.device),
            self.schedule.target(latents, noise, timestep),
            *self._condition(batch, latents, purpose),
        )

    def _condition(self, batch: Batch, latents: Tensor, purpose: str) -> tuple[Tensor | None, Tensor | None]:
        """(low_res, noise_level) of the later stages; in validation clean key frames, and the level of sampling."""
        config, positions, validating = self.config, batch["positions"].tolist(), bool(purpose)

        def draw(kind: str, below: int) -> Tensor:
            return torch.tensor([int(uniform(config.seed, kind, p) * below) for p in positions], device=self.device)

        def noise_like(x: Tensor) -> Tensor:
            shape = x.shape[1:]
            generators = [torch_generator(config.seed, purpose + "condition noise", p) for p in positions]
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(x.device)

        if config.stage == "interpolation":
            keys = latents[:, :, :: config.keyframe_interval]
            if config.condition_noise_steps and not validating:
                steps = draw("condition timestep", config.condition_noise_steps)
                keys = self.schedule.add_noise(keys, noise_like(keys), steps)
            return spread_key_frames(keys, config.keyframe_interval), None
        if config.stage == "vsr":
            pixels = batch["low_res"].to(self.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            level = torch.full((len(positions),), config.sampling.noise_level, device=self.device)
            if not validating:
                level = draw("noise level", config.model.highest_noise_level + 1)
            return self.low_resolution_schedule.add_noise(pixels, noise_like(pixels), level), level
        return None, None
