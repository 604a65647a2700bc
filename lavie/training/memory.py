"""The memory that a run would hold on each GPU, by what it is and when: computed, before anything is built.

A rank holds its states at every moment. On top of them come, one after the other,
  building    the network in float32, as which it is built, before it is shared and its states are there;
  encoding    what the frozen autoencoder computes with, for the clips of a micro-batch;
  backward    gradients, communication buffers, and the activations of the network;
  step        the float32 gradients that the optimizer reads, and what it computes with;
  validation  a second network with the average, and what sampling computes with; the encoders too, which wait on the
              CPU where a cache stands in for them.
The peak is the largest of these sums. Activations are counted on the meta device; attention is taken to keep no scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..config.data import BucketConfig
from ..config.train import TrainConfig
from ..diffusion.guidance import is_guided
from ..models.autoencoder import fuse_norms
from ..models.live_bytes import fused_attention, live_bytes
from ..models.lora.adapter import is_adapter, plain_name
from ..models.meta_encoders import clip_parameters, meta_autoencoder
from ..models.unet import VideoUNet
from .deepspeed import BLOCKS, offloads, zero_stage
from .planning.operations import Counted, count_operations
from .planning.trace import Trace, trace_of
from .planning.traffic import BUCKET
from .planning.zero3 import Gathering, Limits, gathering
from .precision import training_dtype
from .trained_part import set_trained_part

META = torch.device("meta")
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element, by DeepSpeed's names of dtypes."""
EIGHT_BIT = 2 + 2 * 4 / 256
"""Bytes of the two moments of a parameter in 8 bits: codes, and a float32 scale for each block of 256."""
DECODED_AT_ONCE = 4
"""Frames that sampling decodes at once."""
WITHIN = 2
"""Frames and images of the pass on which the order of a network's modules is read: it is the same for all sizes."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds on its device."""

    held: dict[str, float]
    """What it holds at every moment, by what it is."""
    moments: dict[str, dict[str, float]]
    """What comes on top at each moment, by what it is."""

    @property
    def states(self) -> float:
        """Bytes held at every moment."""
        return sum(self.held.values())

    @property
    def worst(self) -> str:
        """The moment at which most is held."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def peak(self) -> float:
        """Bytes held at the worst moment."""
        return self.states + sum(self.moments[self.worst].values())


def memory_of(config: TrainConfig, settings: dict[str, Any], ranks: int, *, fused: bool = True) -> Memory:
    """Return what each rank of a run holds.

    Args:
        config: the run.
        settings: DeepSpeed's, complete.
        ranks: the number of ranks.
        fused: whether the optimizer updates weights in one kernel, as on a GPU; on a CPU it computes with two tensors
            like the weights.
    """
    # The elements that each rank holds of what is shared.
    total, trained, largest = parameter_counts(config)
    zero, stage = settings.get("zero_optimization", {}), zero_stage(settings)
    part = trained / (ranks if stage >= 1 else 1)
    width = training_dtype(config).itemsize
    accumulated = DTYPE_BYTES.get(settings.get("data_types", {}).get("grad_accum_dtype"), width)
    offloaded = offloads(settings)
    whole = total * width
    on_device = 0 if offloaded else 1

    held = {
        "weights": whole / (ranks if stage == 3 else 1),
        "optimizer (float32 master and two moments)": part * optimizer_bytes_each(config, stage) * on_device,
        "average": 0.0 if config.ema_device == "cpu" else part * 4 * config.use_ema * on_device,
        "encoders": 0.0 if config.data.cache else float(encoder_bytes(config)),
    }

    # Communication: buffers that collect gradients, twice where reducing overlaps with computing.
    bucket = zero.get("reduce_bucket_size", BUCKET)
    overlap = zero.get("overlap_comm", stage == 3)
    backward: dict[str, float] = {}
    if stage == 3:
        held["gradient buffers"] = part * accumulated * on_device + bucket * width
        if accumulated != width:
            backward["gradients being added"] = min(bucket, trained) * accumulated
        backward["gradients being scattered"] = float(min(bucket, trained) * width)
        if ranks > 1:
            gathered = gathering_of(config, settings)
            persistent = sum(gathered.persistent)
            held["weights that stay whole"] = float(persistent * width)
            backward["gathered weights"] = float((gathered.live - persistent) * width)
            backward["weights being gathered"] = float(gathered.largest * width)
    elif stage == 2:
        backward["gradients"] = part * accumulated * on_device
        backward["gradient buffers"] = bucket * width * (2 if overlap else 1)
    else:
        separate = stage == 1 and accumulated != width
        backward["gradients"] = float(trained * (width + accumulated if separate else max(width, accumulated)))
        if stage == 1:
            backward["gradient buffers"] = bucket * accumulated * (2 if overlap else 1)

    # The step: float32 gradients, in stages 2 and 3 of the shard, after the copies from which they are made.
    scratch = 0 if fused else 8
    step: dict[str, float] = {"float32 gradients": part * 4 * on_device}
    if offloaded:
        step = {}
    elif stage == 0:
        step = {"gradients": trained * width * 1.0, "optimizer": largest * scratch * 1.0}
        step |= {"float32 gradients": trained * 4.0} if width < 4 else {}
    else:
        # The copies are gone before the optimizer computes.
        copies = {1: 0, 2: 2 * accumulated if accumulated == width else 0, 3: accumulated if accumulated < 4 else 0}
        step["copies of gradients, or the optimizer"] = part * max(copies[stage], scratch)

    backward["activations"] = float(max(activation_bytes(config, size) for size in config.data.sizes))
    built = total * 4.0 + held["encoders"] - sum(held.values())
    moments = {"building": {"network in float32": max(0.0, built)}, "backward": backward, "step": step}
    if config.data.cache is None and config.autoencoder.type == "diffusers":
        moments["encoding"] = {"autoencoder": float(max(encoding_bytes(config, size) for size in config.data.sizes))}
    if config.data.validation or config.validation_prompts:
        changed = adapted_elements(config) if config.trainable == "lora" else trained
        copied = whole if stage == 3 else changed * width
        moments["validation"] = {
            "second network": float(copied + largest * 4),
            "activations": _validation_bytes(config),
            "encoders": float(encoder_bytes(config)) if config.data.cache else 0.0,
        }
    return Memory(held, moments)


def optimizer_bytes_each(config: TrainConfig, stage: int) -> float:
    """Return the bytes of optimizer states of a parameter: two moments, and a master where the weight is none."""
    master = 4 if stage or training_dtype(config) != torch.float32 else 0
    return master + (EIGHT_BIT if config.optimizer == "adamw_8bit" else 8)


def checkpoint_bytes(config: TrainConfig, total: int, trained: int) -> int:
    """Return the bytes of one checkpoint: the network to sample from, float32 weights and moments of what trains.

    Args:
        config: the run.
        total: the number of parameters.
        trained: how many of them train.
    """
    if config.trainable == "lora":
        total = trained * (1 + config.use_ema)  # adapters alone, and their exact averages
    return int(total * 4 + trained * optimizer_bytes_each(config, stage=3))  # whose states are all that is saved


def meta_network(config: TrainConfig) -> VideoUNet:
    """Return the run's network without memory, in the dtype that it computes in, frozen where it does not train."""
    with META:
        network = VideoUNet(config.model).to(training_dtype(config))
        set_trained_part(network, config)
    network.gradient_checkpointing = config.gradient_checkpointing
    return network


def parameter_counts(config: TrainConfig) -> tuple[int, int, int]:
    """Return the number of parameters, of those that train, and of the largest."""
    return _parameter_counts(_Network(config))


def parameter_sizes(config: TrainConfig) -> tuple[tuple[int, bool], ...]:
    """Return the elements of each parameter of the network, in its order, and whether the parameter trains."""
    return _parameter_sizes(_Network(config))


def adapted_elements(config: TrainConfig) -> int:
    """Return how many elements the weights have that adapters change."""
    parameters = meta_network(config).named_parameters()
    return sum(p.numel() for name, p in parameters if plain_name(name) != name and not is_adapter(name))


def activation_bytes(config: TrainConfig, size: BucketConfig) -> int:
    """Return the most bytes that the forward and backward pass of a micro-batch makes live, without gradients."""
    return training_pass(config, size).peak


def training_pass(config: TrainConfig, size: BucketConfig) -> Counted:
    """Return what the forward and backward pass of a micro-batch asks of a device; its peak is without gradients."""
    return _training_pass(_Network(config), _latents(config, size), config.data.num_images)


def encoding_pass(config: TrainConfig, size: BucketConfig) -> tuple[Counted, float]:
    """Return what the autoencoder does to the frames that it encodes at once, and how often for a micro-batch."""
    batch, frames, height, width = _latents(config, size)
    at_once = min(batch * frames, config.autoencoder.frames_per_call)
    of = config.pretrained_model_name_or_path, config.latent_stride, training_dtype(config)
    return _coding_pass(*of, at_once, height, width, False), batch * frames / at_once


def gathering_of(config: TrainConfig, settings: dict[str, Any]) -> Gathering:
    """Return what ZeRO-3 gathers in a micro-batch of a run with DeepSpeed's settings."""
    granularity = int(settings.get("zero_optimization", {}).get("stage3_module_granularity_threshold", 0))
    return _gathering(_Network(config), granularity, Limits.of(settings))


def _latents(config: TrainConfig, size: BucketConfig) -> tuple[int, int, int, int]:
    """Return (batch, frames with images, height, width) of a micro-batch's latents."""
    stride, frames = config.latent_stride, config.data.frames_of_row(size)
    return config.train_batch_size, frames, size.height // stride, size.width // stride


class _Network:
    """A run's config, equal to another where the network, what trains of it and its text are alike: a key of caches."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        what = (config.model, config.gradient_checkpointing, config.trainable, config.lora, training_dtype(config))
        self.key = repr((*what, config.text_encoder.max_length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Network) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


# Each of the following takes seconds, and the ways out of a lack of memory ask for them again.


@lru_cache(maxsize=64)
def _parameter_counts(network: _Network) -> tuple[int, int, int]:
    """Return what `parameter_counts` does."""
    sizes = _parameter_sizes(network)
    trained = sum(size for size, trains in sizes if trains)
    return sum(size for size, _ in sizes), trained, max(size for size, _ in sizes)


@lru_cache(maxsize=64)
def _parameter_sizes(network: _Network) -> tuple[tuple[int, bool], ...]:
    """Return what `parameter_sizes` does."""
    return tuple((p.numel(), p.requires_grad) for p in meta_network(network.config).parameters())


@lru_cache(maxsize=64)
def _training_pass(key: _Network, shape: tuple[int, int, int, int], images: int) -> Counted:
    """Return what `training_pass` does for (batch, frames, height, width) of latents."""
    network = meta_network(key.config)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    call = _call(key.config, network, shape, images)
    return count_operations(lambda: torch.autograd.backward(call().float().pow(2).mean()), gradients=True)


@lru_cache(maxsize=64)
def _gathering(key: _Network, granularity: int, limits: Limits) -> Gathering:
    """Return what is gathered within some limits, where modules of no more parameters per layer are fetched whole."""
    return gathering(_module_trace(key, granularity), limits)


@lru_cache(maxsize=64)
def _module_trace(key: _Network, granularity: int) -> Trace:
    """Return the order in which a pass comes to the modules; a clip of the fewest latents has the same as any."""
    side = 2 ** (len(key.config.model.block_out_channels) - 1)
    network = meta_network(key.config)
    call = _call(key.config, network, (1, WITHIN, side, side), 0, trains=True)
    with torch.enable_grad(), fused_attention():
        return trace_of(network, BLOCKS, granularity, lambda: call().float().pow(2).mean())


@lru_cache(maxsize=64)
def _forward_bytes(key: _Network, shape: tuple[int, int, int, int], images: int) -> int:
    """Return the most bytes that a forward pass without gradients makes live."""
    return live_bytes(_call(key.config, meta_network(key.config), shape, images))


@lru_cache(maxsize=64)
def _coding_pass(
    pretrained: str | None, stride: int, dtype: torch.dtype, frames: int, height: int, width: int, decodes: bool
) -> Counted:
    """Return what the autoencoder does to some frames of height x width latents."""
    vae: Any = fuse_norms(meta_autoencoder(pretrained, stride, dtype))
    if decodes:
        latents = torch.empty(frames, 4, height, width, dtype=dtype, device=META)
        return count_operations(lambda: vae.decode(latents).sample)
    pixels = torch.empty(frames, 3, height * stride, width * stride, dtype=dtype, device=META)
    return count_operations(lambda: vae.encode(pixels).latent_dist.mean)


def _call(
    config: TrainConfig, network: VideoUNet, shape: tuple[int, int, int, int], images: int, *, trains: bool = False
) -> Callable[[], torch.Tensor]:
    """Return a call of the network on inputs without values; the condition's channels are part of the sample.

    With `trains` a gradient reaches the sample, as it does in a training step.
    """
    (batch, *rest), model, dtype = shape, config.model, training_dtype(config)
    sample = torch.empty(batch, model.in_channels, *rest, dtype=dtype, device=META, requires_grad=trains)
    length = config.text_encoder.max_length
    text = torch.empty(batch, 1 + images, length, model.cross_attention_dim, dtype=dtype, device=META)
    level = torch.zeros(batch, dtype=torch.long, device=META) if model.num_noise_levels else None
    timestep = torch.zeros(batch, device=META)
    return lambda: network(sample, timestep, text, noise_level=level, num_images=images)


def _validation_bytes(config: TrainConfig) -> float:
    """Return the bytes of the activations of validation: the held-out loss, or a prompt's clip and its decoding."""
    key, size = _Network(config), config.data.size
    batch, _, height, width = _latents(config, size)
    peaks = []
    if config.data.validation:
        frames = size.num_frames + config.data.num_images
        peaks.append(_forward_bytes(key, (batch, frames, height, width), config.data.num_images))
    if config.validation_prompts:
        rows = 2 if is_guided(config.sampling.guidance_scale) else 1
        peaks.append(_forward_bytes(key, (rows, size.num_frames, height, width), 0))
        if config.autoencoder.type == "diffusers":
            of = config.pretrained_model_name_or_path, config.latent_stride, training_dtype(config)
            peaks.append(_coding_pass(*of, DECODED_AT_ONCE, height, width, True).peak)
    return float(max(peaks))


def encoding_bytes(config: TrainConfig, size: BucketConfig) -> int:
    """Return the most bytes that encoding the pixels of a micro-batch makes live."""
    batch, frames, _, _ = _latents(config, size)
    # All pixels lie there in float32 while a few of them are encoded.
    return encoding_pass(config, size)[0].peak + batch * frames * 3 * size.height * size.width * 4


def encoder_bytes(config: TrainConfig) -> int:
    """Return the bytes of the frozen autoencoder, and of the frozen text encoder, which is float32."""
    pretrained, total = config.pretrained_model_name_or_path, 0
    if config.autoencoder.type == "diffusers":
        total += training_dtype(config).itemsize * _autoencoder_parameters(pretrained, config.latent_stride)
    if config.text_encoder.type == "clip":
        total += 4 * _clip_parameters(pretrained, config.model.cross_attention_dim)
    return total


@lru_cache(maxsize=64)
def _autoencoder_parameters(pretrained: str | None, stride: int) -> int:
    """Return the number of parameters of the autoencoder; arguments as of `meta_autoencoder`."""
    return sum(p.numel() for p in meta_autoencoder(pretrained, stride, torch.float32).parameters())


_clip_parameters = lru_cache(maxsize=64)(clip_parameters)
