"""Every diffusers scheduler holds our schedule's numbers and starts at noise."""

import diffusers
import pytest
import torch

from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.schedulers import SCHEDULERS, make_scheduler, set_timesteps, take_step
from lavie.testing import TOLERANCES, relative_error

SCHEDULES = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction_type, zero_snr", SCHEDULES)
def test_holds_our_numbers(name, prediction_type, zero_snr):
    schedule = NoiseSchedule(prediction_type, zero_snr)
    theirs = make_scheduler(name, schedule)
    assert relative_error(theirs.betas, schedule.betas) < TOLERANCES[torch.float32]
    assert torch.allclose(theirs.alphas_cumprod, schedule.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert theirs.config.prediction_type == prediction_type
    assert not getattr(theirs.config, "clip_sample", False)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("zero_snr", (False, True))
@pytest.mark.parametrize("count", (2, 20, 50, 333, 500))
def test_timesteps_are_whole_and_start_at_noise(name, zero_snr, count):
    theirs = make_scheduler(name, NoiseSchedule("v_prediction", zero_snr))
    set_timesteps(theirs, count)
    assert len(theirs.timesteps) == count
    assert torch.equal(theirs.timesteps.long().float(), theirs.timesteps.float())
    if zero_snr:
        assert theirs.timesteps[0] == 999


def test_fifty_ddim_steps_are_lavies():
    theirs = make_scheduler("ddim", NoiseSchedule())
    set_timesteps(theirs, 50)
    assert theirs.timesteps.tolist() == list(range(981, 0, -20))
    assert theirs.final_alpha_cumprod == theirs.alphas_cumprod[0]


@pytest.mark.parametrize(
    "name, count",
    (("ddim", 0), ("ddim", 1), ("ddpm", 1000), ("euler", 1), ("dpm++", 1000), ("unipc", 1000), ("ddim", 10**6)),
)
def test_refuses_steps_that_miss_the_noise(name, count):
    with pytest.raises(ConfigError, match=f"cannot take {count} steps"):
        set_timesteps(make_scheduler(name, NoiseSchedule()), count)


def test_refuses_unknown_names():
    with pytest.raises(ConfigError, match=r"got 'dpm', wanted one of ddim, ddpm, euler, dpm\+\+, unipc"):
        make_scheduler("dpm", NoiseSchedule())


def denoised(scheduler, schedule):
    """Return where 2000 draws of noise end, float64 (2000, 1), by the exact answer for three narrow peaks of data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    peaks, width = torch.tensor([-0.8, 0.3, 0.8], dtype=torch.float64), 0.1
    for t in scheduler.timesteps:
        x_t = scheduler.scale_model_input(x, t)
        kept = schedule.alphas_cumprod[t.long()].double()
        a, s, variance = kept.sqrt(), (1 - kept).sqrt(), kept * width**2 + 1 - kept
        share = (-((x_t - a * peaks) ** 2) / (2 * variance)).softmax(-1)
        x0 = (share * (peaks + a * width**2 / variance * (x_t - a * peaks))).sum(-1, keepdim=True)
        x = take_step(scheduler, a * (x_t - a * x0) / s - s * x0, t, x, [])
    return x


def test_25_steps_of_dpm_are_as_near_to_the_end_as_50_of_ddim():
    """Schedule and prediction are super-resolution's, for which they are the recipe of half the time."""
    schedule = NoiseSchedule("v_prediction")

    def end(name, steps):
        scheduler = make_scheduler(name, schedule)
        set_timesteps(scheduler, steps)
        return denoised(scheduler, schedule)

    limit = end("ddim", 500)
    error = {asked: float((end(*asked) - limit).norm()) for asked in (("ddim", 50), ("ddim", 25), ("dpm++", 25))}
    assert error["dpm++", 25] < 1.1 * error["ddim", 50] < 0.7 * error["ddim", 25]


def test_dpm_steps_are_diffusers_own():
    """What we hand it is the whole of diffusers' DPM-Solver++(2M), made by itself."""
    schedule = NoiseSchedule("v_prediction")
    ours = make_scheduler("dpm++", schedule)
    theirs = diffusers.DPMSolverMultistepScheduler(
        trained_betas=schedule.betas.numpy(), prediction_type="v_prediction", timestep_spacing="linspace"
    )
    set_timesteps(ours, 25)
    theirs.set_timesteps(25)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert relative_error(denoised(ours, schedule), denoised(theirs, schedule)) < TOLERANCES[torch.float32]
