"""How each stage of the cascade samples: one settings type per stage, for YAML, the command line and Python alike.

A setting's value is the first of these that names it:

1. an override: a flag of `lavie sample`, `--set stage.key=value` of `lavie generate`, a keyword argument in Python;
2. the run: the section `sampling` of its config, and the size, rate and length of the clips that it trained on;
3. the default here, which is that of LaVie's released code.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from ..config.base import Strict
from ..config.load import validate
from ..config.overrides import merge, parse_overrides
from ..config.stages import STAGES
from ..config.train import LARGEST_GUIDANCE, SamplerName, TrainConfig
from ..errors import ConfigError
from ..models.prompt_reading import Reading, Syntax
from .free_u import NEUTRAL, check_factors

DECODE_TILE = 128
"""Latents along one side of the largest frame that goes through an autoencoder whole."""
MOST_FRAMES = 20_000
"""Frames of the longest clip, three quarters of an hour at 8 frames a second, of which memory holds the pixels."""
SLOWEST_FPS, FASTEST_FPS = 0.01, 1000.0
"""Frames per second that the files of clips can say."""
NOT_PASSED = ("prompt_suffix", "fps")
"""Settings of the files and prompts around a sampler, which are no arguments of its call."""


class StageSettings(Strict):
    """The settings that the samplers of all stages have."""

    num_inference_steps: int = Field(50, ge=1)
    """Denoising steps; the schedulers refuse 1, and more than 500."""
    guidance_scale: float = Field(7.5, ge=0, le=LARGEST_GUIDANCE)
    """Scale of classifier-free guidance: 0 draws by the negative prompt alone, 1 by the prompt alone in half the time,
    more than 1 away from the negative prompt."""
    scheduler: SamplerName = "ddim"
    """The solver that walks from noise to a clip."""
    seed: int = 0
    """Seed of the initial noise."""
    negative_prompt: str = ""
    """Prompt of the unconditional branch of guidance."""
    prompt_suffix: str = ""
    """Text that `lavie generate` joins to every prompt. `lavie sample` and `lavie score` draw prompts as they are."""
    prompt_syntax: Syntax = "weights"
    """weights: brackets of a prompt weigh words, as in (fox:1.3) and [snow]; plain: they are characters like others."""
    prompt_chunks: int = Field(1, ge=1, le=16)
    """Pieces of the text encoder's length, 77 tokens of CLIP, that a long prompt may take; what is beyond them is cut,
    with a warning. More than one is more than the network was trained with."""
    clip_skip: int = Field(1, ge=1)
    """Which of CLIP's layers the text's features are of, from the last: 1 is the last, as in training; 2, the one
    before it, is what some fine-tuned weights were made with."""
    cache_interval: int = Field(1, ge=1)
    """Denoising steps that share the deep features of the first of them (DeepCache); 1 computes all of them at every
    step, 3 takes less than half of the work. A stage that cuts its clip into windows takes 1 only."""
    freeu: tuple[float, float, float, float] = NEUTRAL
    """FreeU's factors b1, b2, s1, s2, of the main path and of the skips on the two coarsest levels on the way up; those
    of Stable Diffusion 1.4 are 1.3, 1.4, 0.9, 0.2. All 1 changes nothing."""
    decode_tile: int = Field(DECODE_TILE, ge=8)
    """Latents, along both axes, that go through the autoencoder at once; larger frames go in overlapping tiles. By
    default frames of up to 1024 x 1024 pixels of Stable Diffusion's autoencoder go whole, those of its x4 upscaler up
    to 512 x 512."""

    @field_validator("freeu")
    @classmethod
    def _factors(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse factors that are out of range."""
        try:
            check_factors(factors)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("freeu: ")) from None
        return factors

    @property
    def reading(self) -> Reading:
        """How prompts become text features."""
        return Reading(self.prompt_syntax, self.prompt_chunks, self.clip_skip)

    @classmethod
    def argument_names(cls) -> frozenset[str]:
        """Return the names of the settings that the stage's sampler takes as keyword arguments."""
        return frozenset(cls.model_fields) - frozenset(NOT_PASSED)

    @classmethod
    def trained(cls, config: TrainConfig) -> dict[str, Any]:
        """Return the settings that follow from the clips that a run of the stage trained on."""
        raise NotImplementedError

    @classmethod
    def of(cls, config: TrainConfig, **changes: Any) -> Self:
        """Return the settings with which the network of a run samples alone: the run's own, and its seed.

        Args:
            config: a run of this stage.
            changes: settings that take precedence; those that are None do not.

        Raises:
            ConfigError: a change is unknown or out of range.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        return validate(cls, {**run_defaults(config), "seed": config.seed, **given}, "sampling settings")


class BaseSettings(StageSettings):
    """The settings of the first stage, from a prompt to a short clip: the key frames of the next stage."""

    num_frames: int = Field(16, ge=1, le=MOST_FRAMES)
    """Frames of a clip; 1 draws images."""
    height: int = Field(320, ge=1)
    """Rows of pixels, a multiple of the autoencoder's stride."""
    width: int = Field(512, ge=1)
    """Columns of pixels, a multiple of the autoencoder's stride."""
    fps: float = Field(8, ge=SLOWEST_FPS, le=FASTEST_FPS)
    """Frames per second at which the clip plays."""
    method: Literal["whole", "windows", "recursion"] = "whole"
    """How a clip of more than `window` frames is made. whole: at once. windows: in overlapping windows that are blended
    at every step, with noise that repeats; one scene, by any network. recursion: segment after segment, each given the
    last `overlap` frames of the one before, by a network that takes frames (condition: frames)."""
    window: int = Field(16, ge=1)
    """Frames that the network sees at once by windows and recursion, as many as in training."""
    overlap: int = Field(4, ge=0)
    """Frames that neighbouring windows share, or that a segment is given of the one before; also how many last frames
    of --from-video a clip goes on from."""

    @classmethod
    def trained(cls, config: TrainConfig) -> dict[str, Any]:
        """Return the length and size of the run's clips; windows are as long, and share a quarter."""
        size = {"num_frames": config.data.num_frames, "height": config.data.height, "width": config.data.width}
        return size | _windows(config)


class InterpolationSettings(StageSettings):
    """The settings of the second stage, from key frames to a clip of a higher frame rate."""

    guidance_scale: float = Field(4.0, ge=0, le=LARGEST_GUIDANCE)
    """Scale of classifier-free guidance, lower than the base network's: the key frames say most already."""
    negative_prompt: str = "None"
    """Prompt of the unconditional branch of guidance: the released code passes this word."""
    prompt_suffix: str = ", 4k."
    """Text that `lavie generate` joins to every prompt."""
    window: int = Field(16, ge=2)
    """Key frames that the network sees at once, as many as in the released training."""
    overlap: int = Field(4, ge=0)
    """Key frames that neighbouring windows share."""
    fps: float = Field(24, ge=SLOWEST_FPS, le=FASTEST_FPS)
    """Frames per second at which the clip plays, and that of the last stage too."""

    @classmethod
    def trained(cls, config: TrainConfig) -> dict[str, Any]:
        """Return windows of as many key frames as the run's clips have."""
        return _windows(config)


class VsrSettings(StageSettings):
    """The settings of the third stage, from a clip to one of four times the size."""

    guidance_scale: float = Field(5.0, ge=0, le=LARGEST_GUIDANCE)
    """Scale of classifier-free guidance."""
    negative_prompt: str = "blur, worst quality"
    """Prompt of the unconditional branch of guidance."""
    noise_level: int = Field(50, ge=0)
    """Noise that is laid over the low resolution, 0 .. the network's max_noise_level: more lets it invent more."""
    window: int = Field(8, ge=1)
    """Frames that the network sees at once, as many as in the released training."""
    overlap: int = Field(2, ge=0)
    """Frames that neighbouring windows share."""
    tile: tuple[int, int] = (320, 512)
    """Rows and columns of the low resolution that the network sees at once: the whole frame of the released base."""
    tile_overlap: int = Field(32, ge=0)
    """Pixels of the low resolution that neighbouring tiles share."""

    @classmethod
    def trained(cls, config: TrainConfig) -> dict[str, Any]:
        """Return windows of as many frames as the run's clips have."""
        return _windows(config)


class CascadeSettings(Strict):
    """The settings of the three stages."""

    base: BaseSettings = BaseSettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    vsr: VsrSettings = VsrSettings()

    def fps(self, stage: str) -> float:
        """Return the frames per second at which clips of a stage play: super-resolution keeps the rate before it."""
        return getattr(getattr(self, stage), "fps", self.interpolation.fps)


SETTINGS: dict[str, type[StageSettings]] = {name: type(settings) for name, settings in CascadeSettings()}
"""The settings type of each stage."""


def arguments(settings: StageSettings) -> dict[str, Any]:
    """Return the settings that are keyword arguments of the stage's sampler, by name."""
    names = settings.argument_names()
    return {name: value for name, value in settings if name in names}


def run_defaults(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a run itself decides: its section `sampling`, and the size and rate of its clips.

    1. Without a section `sampling` in its config the released defaults hold.
    2. With one, each of its keys holds. A network of ours was trained with the empty caption in place of dropped ones,
       so that is its negative prompt, and it has no suffix, unless the section says otherwise.
    3. The first stage draws clips of the training size. The later stages see as many frames at once as in training,
       and their windows share a quarter of them (as released).
    """
    settings = SETTINGS[config.stage]
    values: dict[str, Any] = {}
    if "sampling" in config.model_fields_set:
        values = {"negative_prompt": "", "prompt_suffix": "", **config.sampling.model_dump(exclude_unset=True)}
    values |= settings.trained(config)
    if config.data.fps:
        values["fps"] = config.data.fps
    return {name: value for name, value in values.items() if name in settings.model_fields}


def _windows(config: TrainConfig) -> dict[str, int]:
    """Return windows of as many given frames as the run's clips are made from; of as many as they have, for base.

    Neighbours share a quarter of them, at least one and never all.
    """
    length = STAGES[config.stage].given_frames(config.data.num_frames, config.keyframe_interval)
    return {"window": length, "overlap": min(max(1, length // 4), length - 1)}


def resolve(
    defaults: Mapping[str, Any], overrides: Iterable[str] = (), *, seed: int | None = None, source: str = "--set"
) -> CascadeSettings:
    """Return the settings of all stages.

    Args:
        defaults: settings by stage and name, as `run_defaults` gives them; the others are the released ones.
        overrides: settings such as "vsr.guidance_scale=6", which take precedence.
        seed: the seed of every stage that `overrides` names none for.
        source: where overrides come from, for error messages.

    Raises:
        ConfigError: names every key that is unknown or out of range.
    """
    seeds = {} if seed is None else {stage: {"seed": seed} for stage in CascadeSettings.model_fields}
    changes = parse_overrides(overrides, CascadeSettings)
    return validate(CascadeSettings, merge(merge(defaults, seeds), changes), source)
