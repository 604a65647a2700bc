"""The training objective: a batch of pixels and captions becomes the joint loss.

Every random number comes from (seed, purpose, position).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..carry import carry
from ..config.train import TrainConfig
from ..data.cache.cache import Cache
from ..data.feed.batches import Batch
from ..data.order.mixture import weight_at
from ..diffusion.condition import spread_key_frames
from ..diffusion.given_frames import draw_given, frame_condition, given_mask
from ..diffusion.loss import JointLoss, joint_loss, min_snr_weight
from ..diffusion.schedule import NoiseSchedule
from ..distributed import world_size
from ..models.autoencoder import KLAutoencoder, PatchAutoencoder, build_autoencoder, empty_latents, sample_posterior
from ..models.text_encoder import ClipTextEncoder, HashTextEncoder, build_text_encoder
from ..pixels import to_float
from ..seeds import numpy_generator, torch_generator, uniform
from .precision import training_dtype

CPU = torch.device("cpu")


class Inputs(NamedTuple):
    """What the network reads and what it should output, for B clips of F frames with N images each."""

    sample: Tensor
    """Noisy latents (B, C, F + N, h, w)."""
    timestep: Tensor
    """int64 (B,): one for a clip and its images."""
    text: Tensor
    """Text features (B, 1 + N, L, D): the clip's, then each image's."""
    target: Tensor
    """What the network should output, with the shape of `sample`."""
    low_res: Tensor | None = None
    """The condition: mask and latents of the given frames, the key frames' latents spread over the clip, or
    low-resolution pixels."""
    noise_level: Tensor | None = None
    """int64 (B,): the noise in the low-resolution pixels."""


@dataclass
class Objective:
    """The frozen parts around the network, and the loss."""

    config: TrainConfig
    autoencoder: PatchAutoencoder | KLAutoencoder
    text_encoder: HashTextEncoder | ClipTextEncoder
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    """What the network computes in."""
    low_resolution_schedule: NoiseSchedule = field(default_factory=NoiseSchedule.of_low_resolution)
    """The schedule of the noise in the low-resolution pixels of super-resolution."""
    empty_text: Tensor | None = None
    """(L, D): the empty caption's features in data.cache, if the run has one."""
    empty_frames: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """float32 (C, h, w) by (h, w): the latents of frames that are not given, for each size that has occurred."""

    @contextmanager
    def encoders_at_hand(self) -> Iterator[None]:
        """Have both encoders on the device in the block: validation needs them in a run with a cache, its steps do not.

        Without a cache they are always there.
        """
        self._move_encoders(self.device)
        try:
            yield
        finally:
            if self.empty_text is not None:
                self._move_encoders(CPU)

    def _move_encoders(self, device: torch.device) -> None:
        """Move both encoders to a device; what is there already stays."""
        self.autoencoder.to(device)
        self.text_encoder.to(device)

    def loss(self, network: Any, inputs: Inputs) -> JointLoss:
        """Return the loss of a network on `inputs`.

        Args:
            network: DeepSpeed's engine, a VideoUNet, or whatever is called as one.
            inputs: as `training_inputs` or `validation_inputs` return them. A backward pass gives `sample` a gradient.
        """
        config, images = self.config, inputs.text.shape[1] - 1
        # ZeRO-3 lets go of a block's weights when the gradient reaches the block's input. So every block, the first and
        # frozen ones too, needs an input that a gradient reaches. It also tells which row of a bad step is to blame.
        sample = inputs.sample.requires_grad_(torch.is_grad_enabled()).to(self.dtype)
        text = inputs.text.to(self.dtype)

        # A network without a condition does not get the names of one: an engine passes on what it is given.
        condition: dict[str, Any] = {}
        if inputs.low_res is not None:
            condition = {"low_res": inputs.low_res.to(self.dtype), "noise_level": inputs.noise_level}
        output = network(sample, inputs.timestep, text, **condition, num_images=images)

        weight = None
        if config.snr_gamma is not None:
            weight = min_snr_weight(self.schedule.snr(inputs.timestep), config.snr_gamma, config.prediction_type)
        return joint_loss(
            output, inputs.target, num_images=images, image_loss_weight=config.image_loss_weight, weight=weight
        )

    def training_inputs(self, batch: Batch) -> Inputs:
        """Return the inputs of a training step for one micro-batch.

        Timesteps follow timestep_sampling. Captions, the clip's and the images', are dropped one by one with
        probability caption_dropout.
        """
        positions = batch["positions"].tolist()
        timestep = self._timesteps(positions)
        captions = []
        for position, row in zip(positions, batch["captions"], strict=True):
            captions.append([self._drop_caption(caption, position, i) for i, caption in enumerate(row)])
        return self._inputs(batch, timestep, captions, purpose="")

    def validation_inputs(self, batch: Batch, timestep: int) -> Inputs:
        """Return inputs at one given timestep, with every caption kept, and with noise that no training step sees."""
        rows = batch["captions"]
        return self._inputs(batch, torch.full((len(rows),), timestep), rows, purpose="validation-")

    def _timesteps(self, positions: list[int]) -> Tensor:
        """Return the timestep of each position, by the law of timestep_sampling: int64, on the CPU."""
        law, steps, seed = self.config.timestep_sampling, self.schedule.num_train_timesteps, self.config.seed
        if law.law == "uniform":
            return self._draw("timestep", steps, positions)
        drawn = torch.tensor([uniform(seed, "timestep", p) for p in positions], dtype=torch.float64)
        normal = torch.sigmoid(law.mean + law.std * torch.special.ndtri(drawn))
        plain = torch.tensor([uniform(seed, "timestep law", p) < self._uniform_share(p) for p in positions])
        return (torch.where(plain, drawn, normal) * steps).long().clamp_max(steps - 1)

    def _uniform_share(self, position: int) -> float:
        """Return the share of uniform timesteps at the step that a position belongs to."""
        config = self.config
        clips = config.train_batch_size * config.gradient_accumulation_steps * world_size()
        return float(weight_at(config.timestep_sampling.uniform_share, position // clips))

    def _drop_caption(self, caption: str, position: int, i: int) -> str:
        """Return caption number i of the row at a position, or the empty caption with probability caption_dropout."""
        dropped = uniform(self.config.seed, "caption", position, i) < self.config.caption_dropout
        return "" if dropped else caption

    def _draw(self, purpose: str, below: int, positions: list[int]) -> Tensor:
        """Return an integer of 0 .. below - 1 for each position, all equally likely: int64, on the CPU."""
        return torch.tensor([int(uniform(self.config.seed, purpose, position) * below) for position in positions])

    def _normal(self, shape: Sequence[int], purpose: str, positions: list[int]) -> Tensor:
        """Return standard normal noise of a shape for each position, stacked: float32, on the device.

        It is drawn on the CPU, so that it does not depend on the device.
        """
        rows = []
        for position in positions:
            rows.append(torch.randn(shape, generator=torch_generator(self.config.seed, purpose, position)))
        return carry(torch.stack(rows), self.device)

    @torch.no_grad()
    def _inputs(self, batch: Batch, timestep: Tensor, captions: list[list[str]], purpose: str) -> Inputs:
        """Return the inputs for a batch.

        Args:
            batch: pixels and captions, or entries of a cache.
            timestep: int64 (B,), on any device.
            captions: the captions of `batch`, some of them perhaps replaced by the empty one.
            purpose: what tells this noise from that of other inputs: "" in training, or "validation-".
        """
        positions = batch["positions"].tolist()
        text = self._text(batch, captions)
        if self.config.data.images_alone and not purpose:
            # The network is told of a clip before the images: here one of no frames, whose text nothing reads.
            text = torch.cat([text[:, :1], text], 1)

        # Latents drawn from the autoencoder's posterior, and noise of the same shape; frames become the third axis.
        mean, std = self._posterior(batch)
        posterior = self._normal(mean.shape[1:], purpose + "posterior", positions)
        noise = self._normal(mean.shape[1:], purpose + "noise", positions).transpose(1, 2)
        latents = sample_posterior(mean, std, posterior).transpose(1, 2)
        timestep = carry(timestep, self.device)

        return Inputs(
            self.schedule.add_noise(latents, noise, timestep),
            timestep,
            text,
            self.schedule.target(latents, noise, timestep),
            *self._condition(batch, latents, purpose),
        )

    def _posterior(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return mean and std of the latents, float32 (B, F + N, C, h, w), from pixels or from the cache.

        There is no std where the latents are certain.
        """
        if "mean" in batch:
            std = carry(batch["std"], self.device).float() if "std" in batch else None
            return carry(batch["mean"], self.device).float(), std
        rows, pixels = batch["pixels"].shape[:2], carry(batch["pixels"], self.device).flatten(0, 1)
        if pixels.dtype == torch.uint8:
            pixels = to_float(pixels)
        mean, std = self.autoencoder.posterior(pixels)
        return mean.unflatten(0, rows), None if std is None else std.unflatten(0, rows)

    def _text(self, batch: Batch, captions: list[list[str]]) -> Tensor:
        """Return the features (B, number of captions, L, D) of `captions`: those of the batch, or empty ones."""
        if "text" not in batch:
            flat = [caption for row in captions for caption in row]
            return carry(self.text_encoder(flat).unflatten(0, (len(captions), -1)), self.device)

        # The cache has the features of the captions of the batch. A dropped caption gets those of the empty one.
        assert self.empty_text is not None
        self.empty_text = carry(self.empty_text, self.device)
        kept = []
        for row, batch_row in zip(captions, batch["captions"], strict=True):
            kept.append([caption == original for caption, original in zip(row, batch_row, strict=True)])
        mask = carry(torch.tensor(kept), self.device)[..., None, None]
        return torch.where(mask, carry(batch["text"], self.device), self.empty_text).float()

    def _condition(self, batch: Batch, latents: Tensor, purpose: str) -> tuple[Tensor | None, Tensor | None]:
        """Return low_res and noise_level of `Inputs`.

        1. Key frames, and given frames of the clip, are clean, or in training have the noise of up to
           condition_noise_steps timesteps. Images are never given.
        2. Low-resolution pixels have the noise of any level in training, and of the level of sampling in validation.

        Args:
            batch: has "low_res" if the stage is given a low resolution.
            latents: (B, C, F + N, h, w), clean.
            purpose: as for `_inputs`.
        """
        config, positions, validating = self.config, batch["positions"].tolist(), bool(purpose)
        condition = config.conditioning
        if condition == "frames":
            given: list[tuple[int, ...]] = [()] * len(positions)
            if validating or not config.data.images_alone:
                clip = latents.shape[2] - (len(batch["captions"][0]) - 1)
                rngs = (numpy_generator(config.seed, purpose + "given frames", position) for position in positions)
                given = [draw_given(config.given, clip, rng) for rng in rngs]
            mask = given_mask(given, latents.shape[2], latents.device)
            return frame_condition(self._noised(latents, positions, purpose), mask, self._empty_frame(latents)), None

        if condition == "key_frames":
            key_frames = self._noised(latents[:, :, :: config.keyframe_interval], positions, purpose)
            return spread_key_frames(key_frames, config.keyframe_interval), None

        if condition == "low_resolution":
            pixels = to_float(carry(batch["low_res"], self.device)).transpose(1, 2)
            level = torch.full((len(positions),), config.sampling.noise_level, device=self.device)
            if not validating:
                level = carry(self._draw("noise level", config.model.highest_noise_level + 1, positions), self.device)
            noise = self._normal(pixels.shape[1:], purpose + "condition noise", positions)
            return self.low_resolution_schedule.add_noise(pixels, noise, level), level

        return None, None

    def _noised(self, latents: Tensor, positions: list[int], purpose: str) -> Tensor:
        """Return latents (B, ...) that are given, with the noise of condition_noise_steps in training."""
        steps = self.config.condition_noise_steps
        if not steps or purpose:
            return latents
        timestep = carry(self._draw("condition timestep", steps, positions), self.device)
        noise = self._normal(latents.shape[1:], purpose + "condition noise", positions)
        return self.schedule.add_noise(latents, noise, timestep)

    def _empty_frame(self, latents: Tensor) -> Tensor:
        """Return the latents (C, h, w) of a frame that is not given, as large as `latents` (..., h, w).

        They are encoded once for each size, where the autoencoder is: with a cache it waits on the CPU.
        """
        height, width = latents.shape[-2:]
        if (height, width) not in self.empty_frames:
            home = next((parameter.device for parameter in self.autoencoder.parameters()), self.device)
            stride = self.autoencoder.stride
            encoded = empty_latents(self.autoencoder, height * stride, width * stride, home)
            self.empty_frames[height, width] = encoded.to(latents.device)
        return self.empty_frames[height, width]


def build_objective(config: TrainConfig, device: torch.device, caches: Mapping[str, Cache] | None) -> Objective:
    """Return the objective of a run, with the frozen encoders that it builds.

    With caches the encoders wait on the CPU, for no step reads them.

    Args:
        config: the run.
        device: where the network runs.
        caches: the caches of the run by the names of their sizes, or None.
    """
    pretrained, dtype = config.pretrained_model_name_or_path, training_dtype(config)
    home = CPU if caches else device
    return Objective(
        config,
        build_autoencoder(config.autoencoder, pretrained, config.latent_stride).to(home, dtype),
        build_text_encoder(config.text_encoder, config.model.cross_attention_dim, pretrained).to(home),
        NoiseSchedule.from_config(config),
        device,
        dtype,
        empty_text=next(iter(caches.values())).empty_text if caches else None,
    )
