"""Sampling finds the clip that an all-knowing network points at, whatever the scheduler, and batches do not matter."""

import numpy as np
import pytest
import torch
from torch import nn

from lavie.config.model import UNetConfig
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.schedulers import SCHEDULERS
from lavie.inference.text_to_video import TextToVideo

SCHEDULES = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]


class Identity:
    """An autoencoder whose latents are the pixels."""

    stride, channels = 1, 3

    def decode(self, latents):
        assert latents.dim() == 4
        assert latents.shape[1] == 3
        return latents


def text_encoder(captions):
    """(n, 2, 3): features that hold each caption's length."""
    return torch.tensor([float(len(c)) for c in captions])[:, None, None].expand(-1, 2, 3).clone()


class Oracle(nn.Module):
    """Knows the clip: grey of level (caption length / 20), and answers with the noise or v that leads to it."""

    def __init__(self, schedule, dtype=torch.float32):
        super().__init__()
        self.config = UNetConfig(in_channels=3, out_channels=3)
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.schedule = schedule
        self.calls = []

    def clip(self, text):
        return (text[:, 0, 0, 0].float() / 20)[:, None, None, None, None]

    def forward(self, sample, timestep, text, *, num_images=0):
        assert timestep.dtype == torch.int64
        assert timestep.shape == (len(sample),)
        assert text.dim() == 4
        assert text.shape[:2] == (len(sample), 1 + num_images)
        assert sample.dtype == text.dtype == self.weight.dtype
        self.calls.append((tuple(sample.shape), num_images))
        x_t, x0 = sample.double(), self.clip(text).double().expand(sample.shape)
        ones = torch.ones_like(x_t)
        a = self.schedule.add_noise(ones, 0 * ones, timestep)
        s = self.schedule.add_noise(0 * ones, ones, timestep)
        noise = (x_t - a * x0) / s
        return self.schedule.target(x0, noise, timestep).to(sample.dtype)


class Mixer(nn.Module):
    """An arbitrary smooth function of everything it is given, row by row."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, sample, timestep, text, *, num_images=0):
        rows = (timestep / 1000 + text.mean(dim=(1, 2, 3)))[:, None, None, None, None]
        return torch.sin(self.weight * sample + rows) + sample.mean(dim=2, keepdim=True)


def sampler(network, schedule=None):
    return TextToVideo(network, Identity(), text_encoder, schedule or NoiseSchedule())


SIZE = {"num_frames": 3, "height": 4, "width": 6}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction_type, zero_snr", SCHEDULES)
def test_recovers_the_clip(name, prediction_type, zero_snr):
    schedule = NoiseSchedule(prediction_type, zero_snr)
    prompts = ["red", "a moving blue thing"]
    clips = sampler(Oracle(schedule), schedule)(
        prompts, **SIZE, num_inference_steps=20, guidance_scale=1, scheduler=name
    )
    assert clips.shape == (2, 3, 4, 6, 3)
    assert clips.dtype == np.uint8
    expected = np.array([(len(p) / 20 + 1) * 127.5 for p in prompts]).reshape(2, 1, 1, 1, 1)
    # DDIM ends at timestep 0, as LaVie does, and leaves its noise: 1 % of the latents, four sigma of it here.
    assert np.abs(clips - expected).max() <= (6 if name == "ddim" else 1)


def test_guidance_moves_along_the_caption():
    schedule = NoiseSchedule()
    network = Oracle(schedule)
    sample = sampler(network, schedule)
    settings = dict(**SIZE, num_inference_steps=5, scheduler="euler")
    clips = sample(["0123"], guidance_scale=3, **settings)
    assert np.abs(clips - (3 * 0.2 + 1) * 127.5).max() <= 1
    assert {shape[0] for shape, _ in network.calls} == {2}
    clips = sample(["0123"], guidance_scale=3, negative_prompt="01", **settings)
    assert np.abs(clips - (0.1 + 3 * 0.1 + 1) * 127.5).max() <= 1


@pytest.mark.parametrize("sequential", (False, True))
@pytest.mark.parametrize("scale, level", ((0, -0.5), (0.25, -0.25), (0.5, 0.0), (1, 0.5), (1.4, 0.9)))
def test_guidance_is_a_line_through_both_predictions(scale, level, sequential):
    # The oracle's grey is the caption's length / 20, here shifted: -0.5 without a caption, 0.5 with one.
    schedule = NoiseSchedule()
    network = Oracle(schedule)
    network.clip = lambda text: Oracle.clip(network, text) - 0.5
    settings = dict(**SIZE, num_inference_steps=20, scheduler="euler", sequential_guidance=sequential)
    clip = sampler(network, schedule)(["x" * 20], guidance_scale=scale, **settings)
    assert clip.mean() / 127.5 - 1 == pytest.approx(level, abs=0.01)


def test_scale_1_is_one_pass_of_the_conditional_branch():
    schedule = NoiseSchedule()
    network = Oracle(schedule)
    sampler(network, schedule)(["red"], **SIZE, num_inference_steps=4, guidance_scale=1)
    assert network.calls == [((1, 3, 3, 4, 6), 0)] * 4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_clip_does_not_depend_on_its_batch(name):
    sample = sampler(Mixer())
    settings = dict(**SIZE, num_inference_steps=6, scheduler=name, seed=3)
    together = sample(["red", "green", "blue"], **settings)
    alone = sample(["blue"], indices=[2], **settings)
    assert np.abs(alone[0].astype(int) - together[2]).max() <= 1
    assert not np.array_equal(together[0], together[2])


def test_the_seed_decides():
    sample = sampler(Mixer())
    settings = dict(**SIZE, num_inference_steps=4, scheduler="ddpm")
    first = sample(["red"], seed=1, **settings)
    torch.manual_seed(123)
    assert np.array_equal(first, sample(["red"], seed=1, **settings))
    assert not np.array_equal(first, sample(["red"], seed=2, **settings))
    assert not np.array_equal(first, sample(["red"], seed=1, indices=[1], **settings))


def test_one_frame_goes_through_as_an_image():
    schedule = NoiseSchedule()
    network = Oracle(schedule)
    image = sampler(network, schedule)(["red"], num_frames=1, height=4, width=4, num_inference_steps=3)
    assert image.shape == (1, 1, 4, 4, 3)
    assert network.calls == [((2, 3, 1, 4, 4), 1)] * 3


def test_the_network_runs_in_its_own_dtype():
    schedule = NoiseSchedule()
    clips = sampler(Oracle(schedule, torch.bfloat16), schedule)(
        ["0123456789"], **SIZE, num_inference_steps=10, guidance_scale=1, scheduler="dpm++"
    )
    assert np.abs(clips - 191.25).max() <= 12


def test_progress_counts_the_steps():
    seen = []
    sampler(Mixer())(["red"], **SIZE, num_inference_steps=3, progress=lambda step, steps: seen.append((step, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "change, message",
    (
        ({"height": 0}, "height x width: got 0 x 6"),
        ({"num_frames": 0}, "num_frames: got 0"),
        ({"num_inference_steps": 1}, "cannot take 1 steps"),
        ({"indices": [0, 1]}, "got 1 prompts and 2 indices"),
        ({"scheduler": "heun"}, "scheduler: got 'heun'"),
        ({"guidance_scale": -0.5}, "guidance_scale: got -0.5, wanted 0 or more"),
    ),
)
def test_refusals_name_the_setting(change, message):
    with pytest.raises(ConfigError, match=message):
        sampler(Mixer())(["red"], **{**SIZE, **change})
