"""One denoising loop for the whole cascade, on which the samplers of its three stages are built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from ..carry import carry
from ..config.train import TrainConfig
from ..diffusion.guidance import guided, is_guided
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.autoencoder import Autoencoder
from ..models.prompt_reading import encode_branches
from ..seeds import torch_generator
from .chunking import Axes, Region, whole, windowed, within
from .deep_cache import DeepCache
from .free_u import free_u
from .preview import Preview, fit_preview
from .schedulers import begin_at, make_scheduler, set_timesteps, take_step
from .settings import StageSettings

Progress = Callable[[int, int], None]
"""Called after each denoising step as progress(step, steps), step from 1."""
Watch = Callable[[Tensor], None]
"""Called after each denoising step with the clip that the network sees behind the noise: latents float32
(B, C, F, h, w)."""
Draw = Callable[..., Tensor]
"""Called as draw(shape (C, F, h, w), generator=...): returns the noise of one clip, float32 on the CPU."""
ClipSize = tuple[int, int, int]
"""Frames, height and width of a clip, or frames, rows and columns of its latents."""
Settings = TypeVar("Settings", bound=StageSettings)


@dataclass(frozen=True)
class Condition:
    """What a network of the later stages reads beside the noisy latents."""

    low_res: Tensor
    """(B, D, F, h, w) on the latents' grid."""
    noise_level: Tensor | None = None
    """int64 (B,), the level of the noise that `low_res` holds; None where the network embeds none."""


@dataclass(frozen=True)
class Denoising(Generic[Settings]):
    """One call of a sampler: the stage's settings, and what changes from call to call."""

    settings: Settings
    indices: Sequence[int] | None = None
    """Prompt i's noise depends only on (seed, indices[i]), not on its batch; default 0, 1, 2 ..."""
    sequential_guidance: bool = False
    """Whether the two predictions of guidance are computed one after the other, in about half of the memory."""
    progress: Progress | None = None
    """Called after each denoising step."""
    watch: Watch | None = None
    """Called after each denoising step with what is drawn so far."""

    @classmethod
    def of(cls, settings: Settings, options: Mapping[str, Any]) -> "Denoising[Settings]":
        """Return the call that the keyword arguments of a sampler ask for.

        Ranges are not checked here: the sampler refuses what it cannot do in terms of its own network.

        Args:
            settings: the stage's defaults.
            options: fields of this class but for `settings`, and of the settings' `argument_names`.

        Raises:
            TypeError: an option is neither.
        """
        call_names = {field.name for field in fields(cls)} - {"settings"}
        unknown = options.keys() - call_names - settings.argument_names()
        if unknown:
            raise TypeError(f"got unexpected keyword arguments {', '.join(sorted(unknown))}")
        changes = {name: value for name, value in options.items() if name not in call_names}
        call = {name: value for name, value in options.items() if name in call_names}
        return cls(settings.model_copy(update=changes), **call)


@dataclass(frozen=True)
class StageSizes:
    """The sizes of a stage's clip."""

    pixels: ClipSize
    """Frames, height and width of the clip."""
    latents: ClipSize
    """Frames, rows and columns of the latents that are denoised."""
    axes: Axes
    """How those are cut into windows."""

    @property
    def window(self) -> tuple[int, ...]:
        """Frames, rows and columns of the largest window."""
        return tuple(axis.window for axis in self.axes)


class Sampler:
    """A network with its frozen encoders and its noise schedule: what all stages sample with."""

    encodes: ClassVar[bool] = False
    """Whether the stage encodes the frames that it is given."""
    size_flags: ClassVar[str] = ""
    """The settings of `lavie generate` that decide whether a clip's sizes suit the stage, for error messages."""

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
        schedule: NoiseSchedule,
    ) -> None:
        """Join the parts of a stage.

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
        self._preview: Preview | None = None
        self._accepted: set[tuple[str, int, int]] = set()
        """Schedulers, steps and layers that `require_steps` has found to be right."""

    @classmethod
    def of_run(
        cls,
        config: TrainConfig,
        network: nn.Module,
        autoencoder: Autoencoder,
        text_encoder: Callable[[list[str]], Tensor],
    ) -> Self:
        """Return the sampler of a run's network, with the run's noise schedule."""
        return cls(network, autoencoder, text_encoder, NoiseSchedule.from_config(config))

    def sizes(self, given: ClipSize, settings: Any) -> StageSizes:
        """Return the sizes of the stage's clip in a cascade.

        Args:
            given: frames, height and width of the clip that the stage starts from; of its own clip for the first stage.
            settings: the stage's.

        Raises:
            ConfigError: the stage cannot sample such a clip, or not with these settings.
        """
        raise NotImplementedError

    def require_steps(self, settings: StageSettings) -> None:
        """Check, without computing anything, that the stage can take its steps and read prompts with some settings.

        Raises:
            ConfigError: the scheduler cannot take so many steps, or the text encoder has no such layer.
        """
        asked = settings.scheduler, settings.num_inference_steps, settings.clip_skip
        if asked in self._accepted:
            return
        set_timesteps(make_scheduler(settings.scheduler, self.schedule), settings.num_inference_steps)
        # Encoders of users' own code are functions of captions alone.
        if require_layer := getattr(self.text_encoder, "require_layer", None):
            require_layer(settings.clip_skip)
        self._accepted.add(asked)

    @property
    def device(self) -> torch.device:
        """The device that holds the network."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the network and its encoders to a device, in place."""
        for part in (self.network, self.autoencoder, self.text_encoder):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def preview(self) -> Preview:
        """Return the colours of the autoencoder's latents; they are fitted unless the stage was exported with them."""
        if self._preview is None:
            self._preview = fit_preview(self.autoencoder, self.device)
        return self._preview

    def set_preview(self, preview: Preview) -> None:
        """Take the colours of the autoencoder's latents from where they were kept."""
        self._preview = preview

    def _generators(self, purpose: str, seed: int, indices: Sequence[int]) -> list[torch.Generator]:
        """Return a random generator for each index, of noise with a name of its own (see seeds.py)."""
        return [torch_generator(seed, purpose, index) for index in indices]

    def _denoise(
        self,
        shape: Sequence[int],
        prompts: Sequence[str],
        call: Denoising[Any],
        *,
        purpose: str,
        axes: Axes | None = None,
        condition: Condition | None = None,
        num_images: int = 0,
        draw: Draw | None = None,
        begun: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Return latents float32 (B, *shape), made from noise.

        Args:
            shape: (C, F, h, w).
            purpose: the name of the noise (see seeds.py).
            axes: frames, rows and columns, whose windows go through the network one by one; default: all at once. At
                every step the network's outputs of all windows are blended before the step is taken.
            condition: on the whole grid, for all windows.
            num_images: 1 if the only frame is an image.
            draw: draws the noise of one clip; default: independent noise everywhere.
            begun: latents (B, *shape) that the clips start from in place of noise alone, and the share of the steps
                that are taken from there, 0 .. 1.
        """
        settings, axes = call.settings, axes or whole(shape[1:])
        require_whole_if_cached(settings.cache_interval, axes)

        # Noise is drawn on the CPU, one generator per clip: it depends on neither the batch nor the device.
        generators = self._generators(purpose, settings.seed, check_prompts(prompts, call.indices))
        draw = draw or independent_noise
        noise = torch.stack([draw(shape, generator=generator) for generator in generators]).to(self.device)
        predict = self._predictor(prompts, call, condition, num_images=num_images)
        scheduler = make_scheduler(settings.scheduler, self.schedule)
        set_timesteps(scheduler, settings.num_inference_steps)

        latents, first = noise * scheduler.init_noise_sigma, 0
        if begun is not None and begun[1] < 1:
            latents, first = begin_at(scheduler, begun[0], noise, begun[1])
        steps = len(scheduler.timesteps) - first
        with free_u(self.network, settings.freeu):
            for taken, t in enumerate(scheduler.timesteps[first:]):
                x_t, of_network = scheduler.scale_model_input(latents, t), carry(t.long(), self.device)
                # Features are kept from the first step that is taken; windows lie as they do in a clip from noise.
                output = windowed(partial(predict, taken, x_t, of_network), axes, step=first + taken)
                latents = take_step(scheduler, output, t, latents, generators)
                if call.watch:
                    call.watch(self.schedule.denoised(x_t, output, of_network.expand(len(x_t))))
                if call.progress:
                    call.progress(taken + 1, steps)
        return latents

    def _predictor(
        self,
        prompts: Sequence[str],
        call: Denoising[Any],
        condition: Condition | None,
        *,
        num_images: int,
    ) -> Callable[[int, Tensor, Tensor, Region], Tensor]:
        """Return the function that guides the network on one window.

        It takes the number of the step, from 0 for the first that is taken, x_t float32 (B, C, F, h, w), a timestep
        int64 () and a region of the last three axes, and returns the guided output for that region, float32. Texts are
        encoded once, here.
        """
        parameter = next(self.network.parameters())
        guidance_scale, sequential = call.settings.guidance_scale, call.sequential_guidance
        if not guidance_scale >= 0:
            raise ConfigError(
                f"guidance_scale: got {guidance_scale:g}, wanted 0 or more: 0 draws without the caption, 1 by the "
                "caption alone, more than 1 away from the negative prompt"
            )
        branches = [list(prompts)]
        if is_guided(guidance_scale):
            branches.insert(0, [call.settings.negative_prompt] * len(prompts))
        # Text is the clip's, then one per image: an image alone has no clip, but the clip's place stays.
        features = encode_branches(self.text_encoder, branches, call.settings.reading)
        texts = [text.to(parameter)[:, None].expand(-1, 1 + num_images, -1, -1) for text in features]
        if not sequential:
            texts = [torch.cat(texts)]
        network = DeepCache(self.network, call.settings.cache_interval)

        def run(step: int, branch: int, sample: Tensor, t: Tensor, region: Region) -> Tensor:
            """Return the network's output for as many copies of the sample as the text has branches."""
            text = texts[branch]
            copies = len(text) // len(sample)

            def repeated(x: Tensor) -> Tensor:
                """Return a tensor once for each branch, along its first axis."""
                return x.repeat(copies, *(1,) * (x.dim() - 1))

            given: dict[str, Tensor | None] = {}
            if condition is not None:
                given["low_res"] = repeated(within(condition.low_res, region)).to(parameter.dtype)
                given["noise_level"] = None if condition.noise_level is None else repeated(condition.noise_level)
            timestep = t.expand(len(text))
            noisy = repeated(sample).to(parameter.dtype)
            return network(step, branch, noisy, timestep, text, **given, num_images=num_images).float()

        def predict(step: int, x_t: Tensor, t: Tensor, region: Region) -> Tensor:
            """Return the guided output for the region."""
            sample = within(x_t, region)
            outputs = [run(step, branch, sample, t, region) for branch in range(len(texts))]
            if len(branches) == 1:
                return outputs[0]
            unconditional, conditional = outputs if sequential else outputs[0].chunk(2)
            return guided(unconditional, conditional, guidance_scale)

        return predict


def require_whole_if_cached(cache_interval: int, axes: Axes) -> None:
    """Raise ConfigError if steps are to share deep features, and the windows that have them move between steps."""
    if cache_interval > 1 and not all(axis.whole for axis in axes):
        raise ConfigError(
            f"cache_interval: got {cache_interval}, and the clip is cut into windows, which move from step to step: "
            "wanted 1, or a clip of one window"
        )


def independent_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return standard normal noise of a shape, float32, on the CPU."""
    return torch.randn(*shape, generator=generator)


def check_prompts(prompts: Sequence[str], indices: Sequence[int] | None) -> Sequence[int]:
    """Return `indices`, by default 0, 1, 2 ...; raise ConfigError unless there is one for each of at least 1 prompt."""
    indices = range(len(prompts)) if indices is None else indices
    if not prompts or len(indices) != len(prompts):
        raise ConfigError(
            f"got {len(prompts)} prompts and {len(indices)} indices: wanted one index for each, at least 1"
        )
    return indices
