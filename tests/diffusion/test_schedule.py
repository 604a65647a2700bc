"""The schedule's numbers, its conversions as round trips, and its match with diffusers."""

import pytest
import torch

from lavie.config.train import TrainConfig
from lavie.diffusion.schedule import NoiseSchedule, zero_terminal_snr
from lavie.errors import ConfigError
from lavie.testing import TOLERANCES, relative_error
from tests.diffusion.inverse import predict_noise, predict_x0

SCHEDULES = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]


def batch(dtype=torch.float32, shape=(5, 4, 3, 2, 2)):
    g = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=g).to(dtype), torch.randn(shape, generator=g).to(dtype)


def test_the_released_schedule():
    schedule = NoiseSchedule()
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == torch.float32
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    # From shared/reference/networks.md, section 2.
    assert float(schedule.alphas_cumprod[999]) == pytest.approx(4.0e-5, rel=0.02)
    assert float(schedule.alphas_cumprod[500]) == pytest.approx(0.078, rel=0.02)


@pytest.mark.parametrize("prediction_type, zero_snr", SCHEDULES)
@pytest.mark.parametrize("shape", ((5, 4, 3, 2, 2), (5, 7), (5,)))
def test_round_trip(prediction_type, zero_snr, shape):
    schedule = NoiseSchedule(prediction_type, zero_snr)
    x0, noise = batch(torch.float64, shape)
    t = torch.tensor([0, 1, 500, 998, 999])
    x_t = schedule.add_noise(x0, noise, t)
    output = schedule.target(x0, noise, t)
    assert x_t.dtype == output.dtype == torch.float64
    # epsilon: an error of x_t grows by 1 / a_t, 158 at the last timestep.
    assert relative_error(predict_x0(schedule, x_t, output, t), x0) < 1000 * TOLERANCES[torch.float64]
    assert relative_error(predict_noise(schedule, x_t, output, t), noise) < TOLERANCES[torch.float64]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("prediction_type, zero_snr", SCHEDULES)
def test_low_precision_agrees_with_float64(prediction_type, zero_snr, dtype):
    schedule = NoiseSchedule(prediction_type, zero_snr)
    x0, noise = batch(dtype)
    t = torch.tensor([0, 1, 500, 998, 999])
    for method in (schedule.add_noise, schedule.target):
        result = method(x0, noise, t)
        assert result.dtype == dtype
        assert relative_error(result, method(x0.double(), noise.double(), t)) < TOLERANCES[dtype]


def test_variance_is_preserved():
    schedule = NoiseSchedule()
    t = torch.arange(1000)
    ones, zeros = torch.ones(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.float64)
    a, s = schedule.add_noise(ones, zeros, t), schedule.add_noise(zeros, ones, t)
    assert torch.allclose(a**2 + s**2, ones, atol=TOLERANCES[torch.float64])
    assert torch.allclose(schedule.snr(t).double(), (a / s) ** 2, rtol=TOLERANCES[torch.float32])
    assert (schedule.snr(t).diff() < 0).all()


def test_zero_terminal_snr():
    schedule = NoiseSchedule("v_prediction", rescale_betas_zero_snr=True)
    last = torch.tensor([999])
    assert float(schedule.snr(last)) == 0
    assert float(schedule.alphas_cumprod[0]) == pytest.approx(1 - 1e-4)
    x0, noise = batch(shape=(1, 4))
    assert torch.equal(schedule.add_noise(x0, noise, last), noise)
    assert torch.equal(schedule.target(x0, noise, last), -x0)


def test_zero_terminal_snr_is_diffusers():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = NoiseSchedule().betas.double()
    assert torch.allclose(zero_terminal_snr(betas), rescale_zero_terminal_snr(betas), atol=TOLERANCES[torch.float64])


@pytest.mark.parametrize("prediction_type, zero_snr", SCHEDULES)
def test_noising_and_velocity_are_diffusers(prediction_type, zero_snr):
    from diffusers import DDIMScheduler

    schedule = NoiseSchedule(prediction_type, zero_snr)
    theirs = DDIMScheduler(**schedule.diffusers_config())
    x0, noise = batch()
    t = torch.tensor([3, 77, 500, 998, 999])
    assert relative_error(schedule.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t)) < TOLERANCES[torch.float32]
    if prediction_type == "v_prediction":
        assert (
            relative_error(schedule.target(x0, noise, t), theirs.get_velocity(x0, noise, t)) < TOLERANCES[torch.float32]
        )


@pytest.mark.parametrize("prediction_type", ("epsilon", "v_prediction"))
def test_the_clip_behind_the_noise_comes_back(prediction_type):
    """What the network should say of x_t leads back to x_0, at timesteps that hold some of it."""
    schedule = NoiseSchedule(prediction_type)
    x0, noise = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 300, 600, 900])
    found = schedule.denoised(schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t), t)
    assert relative_error(found, x0) < TOLERANCES[torch.float64]


def test_from_config():
    config = TrainConfig(
        output_dir="out",
        max_train_steps=1,
        autoencoder={"type": "patch"},
        model={"in_channels": 48, "out_channels": 48},
        text_encoder={"type": "hash"},
        data={"train": "shards", "fps": 8},
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    schedule = NoiseSchedule.from_config(config)
    assert schedule.prediction_type == "v_prediction"
    assert schedule.rescale_betas_zero_snr


def test_refusals_name_the_key():
    with pytest.raises(ConfigError, match="set prediction_type to v_prediction"):
        NoiseSchedule("epsilon", rescale_betas_zero_snr=True)
    with pytest.raises(ConfigError, match="prediction_type: got 'x0'"):
        NoiseSchedule("x0")


def test_the_low_resolution_has_the_noise_of_the_x4_upscaler():
    schedule = NoiseSchedule.of_low_resolution()
    sigma = (1 - schedule.alphas_cumprod).sqrt()
    assert [round(float(sigma[level]), 3) for level in (50, 150)] == [0.096, 0.25]
    torch.testing.assert_close(schedule.betas, torch.linspace(1e-4**0.5, 0.02**0.5, 1000).square(), rtol=1e-4, atol=0)
