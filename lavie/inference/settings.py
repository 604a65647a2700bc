"""How each stage of the cascade samples. The defaults are those of the released code; a run's own come before them."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from ..config.base import Strict
from ..config.load import merge, parse_overrides, validate
from ..config.train import SamplerName, TrainConfig
from . import interpolation, super_resolution
from .interpolation import Interpolator
from .sampler import Denoising
from .super_resolution import SuperResolver


class StageSettings(Strict):
    """What all stages have."""

    num_inference_steps: int = Field(Denoising.num_inference_steps, ge=1)
    guidance_scale: float = Field(Denoising.guidance_scale, ge=0)
    scheduler: SamplerName = "ddim"
    seed: int = 0
    negative_prompt: str = ""
    prompt_suffix: str = ""
    """Joined to every prompt."""
    decode_tile: int = Field(Denoising.decode_tile, ge=8)
    """Latents, along both axes, that go through the autoencoder at once; larger frames go in overlapping tiles."""


class BaseSettings(StageSettings):
    """From a prompt to a short clip, which is the key frames of the next stage."""

    num_frames: int = Field(16, ge=1)
    height: int = Field(320, ge=1)
    width: int = Field(512, ge=1)
    fps: float = Field(8, gt=0)
    """At which the clip plays."""


class InterpolationSettings(StageSettings):
    """To a higher frame rate."""

    guidance_scale: float = Field(Interpolator.defaults.guidance_scale, ge=0)
    negative_prompt: str = Interpolator.defaults.negative_prompt
    prompt_suffix: str = ", 4k."
    window: int = Field(interpolation.WINDOW, ge=2)
    """Key frames that the network sees at once."""
    overlap: int = Field(interpolation.OVERLAP, ge=0)
    """Key frames that neighbouring windows share."""
    fps: float = Field(24, gt=0)
    """At which the clip plays, and that of the last stage too."""


class VsrSettings(StageSettings):
    """To four times the size."""

    guidance_scale: float = Field(SuperResolver.defaults.guidance_scale, ge=0)
    negative_prompt: str = SuperResolver.defaults.negative_prompt
    noise_level: int = Field(50, ge=0)
    """The noise that the low resolution gets."""
    window: int = Field(super_resolution.WINDOW, ge=1)
    """Frames that the network sees at once."""
    overlap: int = Field(super_resolution.OVERLAP, ge=0)
    """Frames that neighbouring windows share."""
    tile: tuple[int, int] = super_resolution.TILE
    """Rows and columns of the low resolution that the network sees at once."""
    tile_overlap: int = Field(super_resolution.TILE_OVERLAP, ge=0)
    """Pixels of the low resolution that neighbouring tiles share."""


class CascadeSettings(Strict):
    """The settings of the three stages."""

    base: BaseSettings = BaseSettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    vsr: VsrSettings = VsrSettings()


NOT_PASSED = ("prompt_suffix", "fps")
"""Settings that are no arguments of a sampler."""


def arguments(settings: StageSettings) -> dict[str, Any]:
    """The settings that a stage's sampler takes, by name."""
    return {name: value for name, value in settings if name not in NOT_PASSED}


def run_defaults(config: TrainConfig, sampling: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run says of how its network samples: its `sampling` section, and the size and rate of its clips.

    The later stages see as many frames at once as in training, and windows share a quarter of them (as released).

    Args:
        sampling: that section as config.yaml has it; None where it has none, and the released defaults hold. A network
            of ours was trained with the empty caption in place of dropped ones, so that is its negative prompt unless
            the section says otherwise.
    """
    model = type(getattr(CascadeSettings(), config.stage))
    values: dict[str, Any] = {}
    if sampling is not None:
        values = {"negative_prompt": "", "prompt_suffix": ""} | dict(sampling)
    data = config.data
    if config.stage == "base":
        values |= {"num_frames": data.num_frames, "height": data.height, "width": data.width}
    elif config.stage == "interpolation":
        values |= _windows((data.num_frames - 1) // config.keyframe_interval + 1)
    else:
        values |= _windows(data.num_frames)
    if data.fps:
        values["fps"] = data.fps
    return {name: value for name, value in values.items() if name in model.model_fields}


def _windows(length: int) -> dict[str, int]:
    return {"window": length, "overlap": min(max(1, length // 4), length - 1)}


def resolve(
    defaults: Mapping[str, Any], overrides: Iterable[str] = (), *, seed: int | None = None, source: str = "--set"
) -> CascadeSettings:
    """Settings from the stages' defaults by stage, one seed for all, and overrides such as vsr.guidance_scale=6.

    Raises ConfigError naming every key that is unknown or out of range.
    """
    seeds = {} if seed is None else {stage: {"seed": seed} for stage in CascadeSettings.model_fields}
    return validate(CascadeSettings, merge(merge(defaults, seeds), parse_overrides(overrides)), source)
