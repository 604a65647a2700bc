"""The memory that sampling would hold, before anything is loaded: measured on tensors without data.

A stage's peak is the sum of
  weights      those of networks and encoders on the device: the stage's if idle stages are offloaded, else all stages';
  activations  the most that lives at once in one call of the network on its largest window, or of the autoencoder on
               its largest tile, whichever is more;
  clips        the latents with their noise, condition, blended output and scheduler states, in float32.
Attention is taken to keep no matrix of scores, as PyTorch's kernels and ours do; workspaces of convolutions and
fragmentation come on top, for which `MARGIN` stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch

from ..config.load import load_config
from ..config.shipped import find_config
from ..config.train import TrainConfig
from ..diffusion.guidance import is_guided
from ..errors import ConfigError
from ..models.backends import require_backends
from ..models.live_bytes import GIB, fewest, live_bytes
from ..models.lora.choice import LoraChoice, read_choices
from ..models.textual_inversion import teach
from ..models.unet import VideoUNet
from .cascade import Cascade, of_stages, stages_until, takes_loras
from .latents import FRAMES_AT_ONCE
from .load import META, default_device, dtype_on, planned_stage
from .sampler import Sampler, StageSizes
from .settings import resolve, run_defaults

MARGIN = 1.1
"""Factor on the sum, for what the estimate does not see."""
CLIP_COPIES = 8
"""Tensors like the latents that the loop holds: noise, latents, condition and its noise, the blended output and a
window's share, and two states of a second-order scheduler."""


@dataclass(frozen=True)
class Peak:
    """Bytes that a stage holds on its device."""

    sizes: StageSizes
    weights: float
    """Bytes of the networks and encoders on the device."""
    network: float
    """Bytes of activations in one call of the network on its largest window."""
    autoencoder: float
    """Bytes of activations in one call of the autoencoder on its largest tile."""
    clips: float
    """Bytes of the clip's latents and their companions."""

    @property
    def total(self) -> float:
        """Bytes at the worst moment, with the margin."""
        return MARGIN * (self.weights + max(self.network, self.autoencoder) + self.clips)


def planned_cascade(
    configs: Iterable[str],
    *,
    overrides: Iterable[str] = (),
    seed: int | None = None,
    stop_after: str = "vsr",
    loras: Sequence[LoraChoice] = (),
    embeddings: Iterable[str] = (),
) -> Cascade:
    """Return the cascade that runs of some configs would make, on the meta device: neither runs nor weights need be.

    Args:
        configs: a config of each stage that runs, as files or names of shipped ones; those of later stages are read,
            and left out.
        overrides, seed, stop_after: as for `Cascade.from_pretrained`.
        loras, embeddings: likewise; they are looked at, and change no size.

    Raises:
        CheckpointError: a LoRA does not fit, or an embedding fits no stage.
        ConfigError: a stage has no config, or two, or settings are unknown or out of range.
        KernelError: a config's `kernels` or `attention` cannot run here.
    """
    wanted = stages_until(stop_after)
    found: dict[str, TrainConfig] = {}
    for name in configs:
        config = load_config(find_config(name, "--config"))
        if config.stage in found:
            raise ConfigError(f"--config {name} is of stage {config.stage}, and so is another: give one of each stage")
        found[config.stage] = config
    if missing := [stage for stage in wanted if stage not in found]:
        raise ConfigError(
            f"no --config is of stage {missing[0]}: give one of each stage, or --stop-after an earlier one"
        )

    runs = {stage: found[stage] for stage in wanted}
    stages: dict[str, Any] = {}
    for stage, config in runs.items():
        require_backends(config.kernels, config.attention, default_device())
        read_choices(loras if takes_loras(config.stage) else (), config.model)
        stages[stage] = planned_stage(config, dtype_on(META), config.pretrained_model_name_or_path)
    teach(embeddings, {stage: sampler.text_encoder for stage, sampler in stages.items()})
    defaults: dict[str, Any] = {stage: run_defaults(config) for stage, config in runs.items()}
    return Cascade(**stages, settings=resolve(defaults, of_stages(overrides, stages), seed=seed), device=META)


def peaks(cascade: Cascade, *, offload: bool = False, sequential_guidance: bool = False) -> dict[str, Peak]:
    """Return the peak of every stage of a cascade.

    Args:
        cascade: on the meta device, as Cascade.from_pretrained(..., device="meta") gives it.
        offload: whether idle stages stay on the CPU.
        sequential_guidance: whether the two predictions of guidance are computed one after the other.

    Raises:
        ConfigError: settings with which a stage cannot sample.
    """
    return {name: _peak(cascade, name, offload, sequential_guidance) for name in cascade.stages}


OFFLOAD, SEQUENTIAL = "--offload", "--sequential-guidance"
REMEDIES = {
    "base": ("decode_tile=64",),
    "interpolation": ("decode_tile=64", "window=8", "window=5"),
    "vsr": ("decode_tile=64", "tile=[160,256]", "tile=[96,128]", "window=4"),
}
"""Settings of each stage that take less memory and more time, mild ones first."""


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of the device that networks would run on."""

    name: str
    """The GPU's name, or the CPU and the dtype that networks run in."""
    free: int
    """Bytes that a new program could take."""
    total: int
    """Bytes in all."""


def device_memory(device: torch.device) -> DeviceMemory:
    """Return the present memory of a device."""
    if device.type == "cuda":
        return DeviceMemory(torch.cuda.get_device_name(device), *torch.cuda.mem_get_info(device))
    memory = psutil.virtual_memory()
    name = f"{device}, {str(dtype_on(device)).removeprefix('torch.')}"
    return DeviceMemory(name, memory.available, memory.total)


def require_fit(
    cascade: Cascade,
    estimates: Mapping[str, Peak],
    limit: float,
    *,
    offload: bool = False,
    sequential_guidance: bool = False,
) -> None:
    """Raise ConfigError if a stage's peak is above a limit, naming the flags that keep it below.

    Args:
        cascade: the one that was estimated, on the meta device.
        estimates: from `peaks`.
        limit: bytes.
        offload, sequential_guidance: as given to `peaks`.
    """
    faults = []
    for name, peak in estimates.items():
        if peak.total > limit:
            flags = _remedy(cascade, name, limit, offload, sequential_guidance)
            smaller = "smaller base.height and base.width, or fewer base.num_frames"
            faults.append(
                f"stage {name} would take {peak.total / GIB:.2f} GiB of {limit / GIB:.2f} GiB; "
                + (f"it fits with {' '.join(flags)}" if flags else f"no flag makes it fit: wanted {smaller}")
            )
    if faults:
        raise ConfigError("\n".join(faults))


def flags_to_fit(
    cascade: Cascade, limit: float, *, offload: bool = False, sequential_guidance: bool = False
) -> list[str]:
    """Return the flags with which every stage's peak stays within a limit: OFFLOAD, SEQUENTIAL, "--set stage.key=...".

    Flags that hold for all stages are taken where one stage needs them, and then help the others. The list is empty if
    nothing is needed.

    Args:
        cascade: on the meta device.
        limit: bytes.
        offload, sequential_guidance: what is given already.

    Raises:
        ConfigError: a stage does not fit by any flag.
    """
    chosen: list[str] = []
    for name in cascade.stages:
        given = {
            "offload": offload or OFFLOAD in chosen,
            "sequential_guidance": sequential_guidance or SEQUENTIAL in chosen,
        }
        peak = _peak(cascade, name, *given.values())
        if peak.total > limit:
            flags = _remedy(cascade, name, limit, *given.values())
            if not flags:
                require_fit(cascade, {name: peak}, limit, **given)
            chosen += flags
    return chosen


def _remedy(cascade: Cascade, stage: str, limit: float, offload: bool, sequential: bool) -> list[str]:
    """Return the flags with which a stage's peak stays within the limit, mild ones first; empty if none suffice."""
    flags = [flag for flag, given in ((OFFLOAD, offload), (SEQUENTIAL, sequential)) if not given]
    flags += [f"--set {stage}.{change}" for change in REMEDIES[stage]]

    def fits(chosen: list[str]) -> bool:
        """Return whether the stage fits with these flags."""
        overrides = [flag.removeprefix("--set ") for flag in chosen if flag.startswith("--set ")]
        changed = Cascade(**cascade.stages, settings=resolve(cascade.settings.model_dump(), overrides))
        peak = _peak(changed, stage, offload or OFFLOAD in chosen, sequential or SEQUENTIAL in chosen)
        return peak.total <= limit

    return fewest(flags, fits)


def _peak(cascade: Cascade, name: str, offload: bool, sequential: bool) -> Peak:
    """Return the peak of one stage of a cascade on the meta device."""
    sampler: Sampler = cascade.stages[name]
    settings, sizes = getattr(cascade.settings, name), cascade.sizes()[name]
    network: Any = sampler.network
    text_encoder: Any = sampler.text_encoder
    weights = {
        n: sum(map(_parameter_bytes, (s.network, s.autoencoder, s.text_encoder))) for n, s in cascade.stages.items()
    }

    # The autoencoder decodes a few frames of the largest tile at once, and encodes as many where the stage asks for it.
    autoencoder: Any = sampler.autoencoder
    tile = [min(length, settings.decode_tile) for length in sizes.latents[1:]]
    latents = torch.empty(min(FRAMES_AT_ONCE, sizes.latents[0]), autoencoder.channels, *tile, device=META)
    activations = [live_bytes(lambda: autoencoder.decode(latents))]
    if sampler.encodes:
        pixels = torch.empty(len(latents), 3, *(autoencoder.stride * length for length in tile), device=META)
        activations.append(live_bytes(lambda: autoencoder.encode(pixels)))

    text_length = text_encoder.max_length * settings.prompt_chunks

    # Guidance doubles the rows of the network's call, unless its two predictions go one after the other.
    rows = 2 if is_guided(settings.guidance_scale) and not sequential else 1
    return Peak(
        sizes,
        weights=weights[name] if offload else sum(weights.values()),
        network=_network_bytes(network, (rows, network.config.in_channels, *sizes.window), text_length),
        autoencoder=max(activations),
        clips=CLIP_COPIES * 4 * autoencoder.channels * torch.Size(sizes.latents).numel(),
    )


@lru_cache(maxsize=64)  # it takes seconds, and remedies ask again
def _network_bytes(network: VideoUNet, shape: tuple[int, ...], text_length: int) -> int:
    """Return the bytes of activations of one call on a sample of `shape`, condition included."""
    like = next(network.parameters())
    level = torch.zeros(shape[0], dtype=torch.long, device=META) if network.config.num_noise_levels else None
    text = like.new_empty(shape[0], text_length, network.config.cross_attention_dim)
    timestep = torch.zeros(shape[0], device=META)
    return live_bytes(lambda: network(like.new_empty(shape), timestep, text, noise_level=level))


def _parameter_bytes(part: Any) -> int:
    """Return the bytes of a module's parameters."""
    return sum(p.numel() * p.element_size() for p in part.parameters())
