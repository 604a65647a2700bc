"""Every diffusers scheduler holds our schedule's numbers and starts at noise."""

import pytest
import torch

from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.schedulers import SCHEDULERS, make_scheduler, set_timesteps
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
