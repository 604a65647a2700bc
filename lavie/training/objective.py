"""From a batch of pixels and captions to the joint loss. Every random number comes from (seed, purpose, position)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.train import TrainConfig
from ..data.feed.batches import Batch
from ..diffusion.condition import spread_key_frames
from ..diffusion.loss import JointLoss, joint_loss, min_snr_weight
from ..diffusion.schedule import NoiseSchedule
from ..models.autoencoder import Autoencoder, sample_posterior
from ..pixels import to_float
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
class Objective:
    """The frozen parts around the network, and the loss."""

    config: TrainConfig
    autoencoder: Autoencoder
    text_encoder: torch.nn.Module
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    low_resolution_schedule: NoiseSchedule = field(default_factory=NoiseSchedule.of_low_resolution)
    empty_text: Tensor | None = None
    """(L, D): the empty caption's features in data.cache, if the run has one."""

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
        mean, std = self._posterior(batch)
        posterior, noise = (
            torch.stack(
                [torch.randn(mean.shape[1:], generator=torch_generator(seed, purpose + k, p)) for p in positions]
            )
            for k in ("posterior", "noise")
        )
        latents = sample_posterior(mean, std, posterior.to(self.device)).transpose(1, 2)
        noise, timestep = noise.to(self.device).transpose(1, 2), timestep.to(self.device)
        return Inputs(
            self.schedule.add_noise(latents, noise, timestep),
            timestep,
            self._text(batch, captions),
            self.schedule.target(latents, noise, timestep),
            *self._condition(batch, latents, purpose),
        )

    def _posterior(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Mean and std of the latents, float32 (B, F + N, C, h, w), from pixels or from the cache."""
        if "mean" in batch:
            std = batch["std"].to(self.device).float() if "std" in batch else None
            return batch["mean"].to(self.device).float(), std
        rows, pixels = batch["pixels"].shape[:2], batch["pixels"].to(self.device).flatten(0, 1)
        if pixels.dtype == torch.uint8:
            pixels = to_float(pixels)
        mean, std = self.autoencoder.posterior(pixels)
        return mean.unflatten(0, rows), None if std is None else std.unflatten(0, rows)

    def _text(self, batch: Batch, captions: list[list[str]]) -> Tensor:
        """The features (B, 1 + N, L, D) of `captions`, which are those of the batch or empty."""
        if "text" not in batch:
            flat = [caption for row in captions for caption in row]
            return self.text_encoder(flat).unflatten(0, (len(captions), -1)).to(self.device)
        assert self.empty_text is not None
        kept = [[a == b for a, b in zip(*rows, strict=True)] for rows in zip(captions, batch["captions"], strict=True)]
        mask = torch.tensor(kept, device=self.device)[..., None, None]
        return torch.where(mask, batch["text"].to(self.device), self.empty_text.to(self.device)).float()

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
            pixels = to_float(batch["low_res"].to(self.device)).transpose(1, 2)
            level = torch.full((len(positions),), config.sampling.noise_level, device=self.device)
            if not validating:
                level = draw("noise level", config.model.highest_noise_level + 1)
            return self.low_resolution_schedule.add_noise(pixels, noise_like(pixels), level), level
        return None, None
