"""diffusers' schedulers, built from our noise schedule: how sampling walks from noise to a clip."""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from ..config.train import SamplerName, TrainConfig
from ..diffusion.schedule import NoiseSchedule
from ..errors import ConfigError
from ..models.prompt_syntax import parse_weights

SCHEDULERS: tuple[str, ...] = get_args(SamplerName)
"""The names that `make_scheduler` takes."""


def make_scheduler(name: str, schedule: NoiseSchedule) -> Any:
    """Return a fresh diffusers scheduler for one pass of sampling over `schedule`.

    ddim (deterministic) and ddpm step as LaVie's own inference does; euler is first order too; dpm++ (DPM-Solver++(2M),
    Lu et al. 2022) and unipc (Zhao et al. 2023), of second order, need the fewest steps, about 20. None of them clips
    latents.

    Raises:
        ConfigError: `name` is none of SCHEDULERS.
    """
    import diffusers  # takes seconds, which commands that draw nothing should not wait for

    config = schedule.diffusers_config()
    if name == "ddim":
        return diffusers.DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=False)
    if name == "ddpm":
        return diffusers.DDPMScheduler(**config, clip_sample=False, variance_type="fixed_small")
    if name == "euler":
        return diffusers.EulerDiscreteScheduler(**config)
    if name in ("dpm++", "unipc"):
        # diffusers divides "leading" steps differently here: 50 of them would start at timestep 951.
        config["timestep_spacing"] = "trailing" if schedule.rescale_betas_zero_snr else "linspace"
        if name == "unipc":
            return diffusers.UniPCMultistepScheduler(**config)
        return diffusers.DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++")
    raise ConfigError(f"scheduler: got {name!r}, wanted one of {', '.join(SCHEDULERS)}")


def set_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    """Prepare `scheduler` for a number of steps, or refuse a number that would not start it at noise.

    Its timesteps stay on the CPU, as its tables do: a table there, indexed by a number of the GPU, waits for the GPU.

    Raises:
        ConfigError: the timesteps would leave 0 .. 999, repeat, or start in the lower half of the schedule.
    """
    last = scheduler.config.num_train_timesteps - 1
    if 1 <= num_inference_steps <= last + 1:
        scheduler.set_timesteps(num_inference_steps)
        steps = scheduler.timesteps
        if last / 2 <= steps[0] <= last and steps[-1] >= 0 and bool((steps.diff() < 0).all()):
            return
    raise ConfigError(
        f"num_inference_steps: {type(scheduler).__name__} cannot take {num_inference_steps} steps from noise to a "
        f"clip; wanted 2 to {last // 2 + 1}, as 50"
    )


def begin_at(scheduler: Any, latents: Tensor, noise: Tensor, strength: float) -> tuple[Tensor, int]:
    """Return noisy latents in the middle of a scheduler's steps, and the number of the step that comes next, from 0.

    Args:
        scheduler: from `make_scheduler`, after `set_timesteps`.
        latents: clean (B, ...).
        noise: like `latents`.
        strength: the share of the steps that are still to be taken, rounded to whole ones. Without any, the latents
            stay clean.
    """
    steps = len(scheduler.timesteps)
    first = steps - round(steps * strength)
    if first == steps:
        return latents, first
    if hasattr(scheduler, "set_begin_index"):  # those that count their steps
        scheduler.set_begin_index(first)
    t = scheduler.timesteps[first].expand(len(latents))
    return scheduler.add_noise(latents, noise, t), first


def require_sampling(config: TrainConfig) -> None:
    """Raise ConfigError, before a run has trained, if it shall draw samples and could not."""
    if not config.validation_prompts and config.eval.steps is None:
        return
    for prompt in (*config.validation_prompts, config.sampling.negative_prompt):
        parse_weights(prompt)
    scheduler = make_scheduler(config.sampling.scheduler, NoiseSchedule.from_config(config))
    set_timesteps(scheduler, config.sampling.num_inference_steps)


def take_step(scheduler: Any, output: Tensor, t: Tensor, x_t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return the latents one step nearer to the clip.

    Args:
        scheduler: from `make_scheduler`, after `set_timesteps`.
        output: the network's for x_t, (B, ...).
        t: the timestep, one of the scheduler's: a scalar on the CPU, whatever the device of the latents.
        x_t: the noisy latents (B, ...).
        generators: one for each row; only ddpm draws from them.
    """
    from diffusers import DDPMScheduler

    drawing = {"generator": list(generators)} if isinstance(scheduler, DDPMScheduler) else {}
    return scheduler.step(output, t, x_t, **drawing).prev_sample
