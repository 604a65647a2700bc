"""What is no number is told and never written: latents and pixels of every stage, with one read for each clip."""

import json

import pytest
import torch
from torch import nn

from lavie.config.model import UNetConfig
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.cascade import Cascade
from lavie.inference.finite import NotFiniteError, naming_clip, require_finite_clip
from lavie.inference.generate import generate, generate_cascade, validation_sampler
from lavie.inference.jobs import Job, draw
from lavie.inference.settings import BaseSettings, CascadeSettings
from lavie.inference.text_to_video import TextToVideo
from tests.cascades import stage_config

SETTINGS = BaseSettings(num_frames=2, height=4, width=6, num_inference_steps=3, guidance_scale=1, scheduler="euler")


class Network(nn.Module):
    """Draws what `output` is, once it has been called so many times."""

    def __init__(self, output, calls=0):
        super().__init__()
        self.config = UNetConfig(in_channels=3, out_channels=3)
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.output, self.left = output, calls

    def forward(self, sample, timestep, text, *, num_images=0):
        self.left -= 1
        return sample if self.left >= 0 else torch.full_like(sample, self.output)


class Autoencoder:
    """Latents are the pixels, times `gain`."""

    stride, channels = 1, 3

    def __init__(self, gain=1.0):
        self.gain = gain

    def decode(self, latents):
        return latents * self.gain

    def encode(self, pixels, noise=None):
        return pixels


def sampler(output=0.0, gain=1.0, calls=0):
    text_encoder = lambda captions: torch.zeros(len(captions), 2, 3)  # noqa: E731
    return TextToVideo(Network(output, calls), Autoencoder(gain), text_encoder, NoiseSchedule())


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("output", (float("nan"), float("inf")))
def test_latents_that_are_no_numbers_end_the_call_and_leave_no_file(tmp_path, output):
    told = r"clip 00001, stage base \('blue'\): the denoised latents are not finite .*--lora .*float16"
    with pytest.raises(NotFiniteError, match=told):
        generate(sampler(output, calls=3), ["red", "blue", "green"], tmp_path, SETTINGS, weights="w")
    # What was finished stays, and the same call with better weights could go on from it.
    assert files(tmp_path) == ["00000.gif", "00000.json", "00000.mp4", "00000.sheet.png"]


def test_pixels_that_are_no_numbers_are_told_from_latents(tmp_path):
    with pytest.raises(NotFiniteError, match=r"00000, stage base \('red'\): the latents are finite, and the pixels"):
        generate(sampler(gain=float("inf")), ["red"], tmp_path, SETTINGS)
    assert files(tmp_path) == []


def test_a_job_that_is_no_number_is_named_and_not_written(tmp_path):
    with pytest.raises(NotFiniteError, match=r"a/b.mp4, stage base \('red'\): the denoised latents"):
        draw(sampler(float("nan")), [Job(prompt="red", name="a/b.mp4", index=0)], tmp_path, SETTINGS, weights="w")
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_cascade_names_clip_and_stage(tmp_path):
    settings = CascadeSettings(base=SETTINGS)
    cascade = Cascade(sampler(float("nan"), calls=3), settings=settings)
    with pytest.raises(NotFiniteError, match=r"clip 00001, stage base \('blue'\): .* nothing of this clip is written"):
        generate_cascade(cascade, ["red", "blue"], tmp_path)
    assert files(tmp_path) == ["00000-base.json", "00000-base.npy"]
    record = json.loads((tmp_path / "work/00000-base.json").read_text())
    assert record["prompt"] == "red"


def test_validation_tells_it_and_training_goes_on(tmp_path, caplog):
    class Objective:
        autoencoder, schedule, device = Autoencoder(), NoiseSchedule(), torch.device("cpu")
        text_encoder = staticmethod(lambda captions: torch.zeros(len(captions), 2, 3))

    sample = validation_sampler(stage_config("base", validation_prompts=["red"]))
    sample(Network(float("nan")), Objective(), tmp_path)
    assert "validation: clip 00000, stage base ('red'): the denoised latents are not finite" in caplog.text
    assert files(tmp_path) == []


def test_finite_clips_pass_and_other_errors_keep_their_words():
    require_finite_clip(torch.tensor(True), torch.tensor(True))
    with pytest.raises(ConfigError, match=r"^plain$"), naming_clip("clip"):
        raise ConfigError("plain")
