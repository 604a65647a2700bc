"""The two later stages: shapes, what their networks are given, and independence of batches and windows."""

import numpy as np
import pytest
import torch
from torch import nn

from lavie.config.model import UNetConfig
from lavie.diffusion.condition import spread_key_frames
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.interpolation import Interpolator
from lavie.inference.latents import decode, encode
from lavie.inference.super_resolution import SuperResolver
from lavie.models.autoencoder import PatchAutoencoder


def text_encoder(captions):
    """(n, 2, 3): features that hold each caption's length."""
    return torch.tensor([float(len(c)) for c in captions])[:, None, None].expand(-1, 2, 3).clone()


class Pointwise(nn.Module):
    """An arbitrary smooth function of everything it is given, place by place; remembers its calls."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.config = config
        self.calls = []

    def forward(self, sample, timestep, text, *, low_res, noise_level=None, num_images=0):
        assert num_images == 0
        assert low_res.shape[2:] == sample.shape[2:]
        assert timestep.dtype == torch.int64
        assert (noise_level is None) == (not self.config.num_noise_levels)
        self.calls.append((sample.clone(), low_res.clone(), noise_level))
        rows = (timestep / 1000 + text.mean(dim=(1, 2, 3)) / 10)[:, None, None, None, None]
        condition = low_res.mean(1, keepdim=True)
        return torch.sin(self.weight * sample + rows) + condition


def interpolator(interval=4):
    return Interpolator(Pointwise(UNetConfig()), PatchAutoencoder(2, 4), text_encoder, NoiseSchedule(), interval)


def resolver(prediction_type="v_prediction", max_noise_level=100):
    config = UNetConfig(num_noise_levels=200, max_noise_level=max_noise_level)
    return SuperResolver(Pointwise(config), PatchAutoencoder(4, 2), text_encoder, NoiseSchedule(prediction_type))


def frames(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


FEW = {"num_inference_steps": 3, "scheduler": "ddpm"}


@pytest.mark.parametrize("keys, interval", ((2, 4), (3, 4), (4, 3)))
def test_interpolation_fills_the_time_between_key_frames(keys, interval):
    stage = interpolator(interval)
    clip = frames(2, keys, 8, 12)
    result = stage(clip, ["red", "a blue thing"], **FEW)
    assert result.shape == (2, (keys - 1) * interval + 1, 8, 12, 3)
    assert result.dtype == np.uint8
    latents = encode(stage.autoencoder, clip, torch.device("cpu"))
    for _, low_res, _ in stage.network.calls:  # clean, the same in both branches of guidance
        assert torch.equal(low_res, spread_key_frames(latents, interval).repeat(2, 1, 1, 1, 1))
    from_latents = interpolator(interval)(latents, ["red", "a blue thing"], **FEW)
    assert np.array_equal(result, from_latents)


def test_super_resolution_is_conditioned_on_noised_pixels():
    stage = resolver()
    clip = frames(1, 3, 6, 10)
    result = stage(clip, ["red"], noise_level=7, **FEW)
    assert result.shape == (1, 3, 24, 40, 3)
    assert result.dtype == np.uint8
    clean = torch.tensor(clip).permute(0, 4, 1, 2, 3) / 127.5 - 1
    (sample, first, level), *others = stage.network.calls
    assert sample.shape == (2, 6, 3, 6, 10)
    assert level.tolist() == [7, 7]
    assert torch.equal(first[0], first[1])
    assert all(torch.equal(first, low_res) for _, low_res, _ in others)
    # x = a clean + s noise, with a^2 + s^2 = 1 and s from the upscaler's schedule
    s = float((1 - NoiseSchedule.of_low_resolution().alphas_cumprod[7]).sqrt())
    noise = (first[:1] - (1 - s**2) ** 0.5 * clean) / s
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert abs(float(noise.mean())) < 0.1


def test_sequential_guidance_is_the_batched_one():
    for stage, clip in ((interpolator(), frames(2, 2, 4, 4)), (resolver(), frames(2, 2, 4, 4))):
        batched = stage(clip, ["red", "blue!"], **FEW)
        calls = len(stage.network.calls)
        sequential = stage(clip, ["red", "blue!"], sequential_guidance=True, **FEW)
        assert np.abs(batched.astype(int) - sequential).max() <= 1
        assert [len(sample) for sample, *_ in stage.network.calls] == [4] * calls + [2] * 2 * calls


def test_windows_of_a_pointwise_network_change_nothing():
    clip = frames(1, 9, 4, 4)
    whole = interpolator()(clip, ["red"], **FEW, window=9)
    stage = interpolator()
    parts = stage(clip, ["red"], **FEW, window=4, overlap=2)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert {sample.shape[2] for sample, *_ in stage.network.calls} == {13}

    clip = frames(1, 9, 20, 28)
    whole = resolver()(clip, ["red"], **FEW, window=9, tile=(20, 28))
    stage = resolver()
    parts = stage(clip, ["red"], **FEW, window=4, overlap=2, tile=(16, 16), tile_overlap=8, decode_tile=8)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert max(sample.shape[2] for sample, *_ in stage.network.calls) == 4
    assert max(sample.shape[4] for sample, *_ in stage.network.calls) == 16


def test_each_window_is_conditioned_as_a_clip_of_its_own():
    stage = interpolator()
    stage(frames(1, 9, 4, 4), ["red"], num_inference_steps=2, window=4, overlap=1)
    for _, low_res, _ in stage.network.calls:
        assert torch.equal(low_res, spread_key_frames(low_res[:, :, ::4], 4))


@pytest.mark.parametrize("make", (interpolator, resolver))
def test_a_clip_depends_on_seed_and_index_not_on_its_batch(make):
    clip = frames(3, 3, 4, 8)
    together = make()(clip, ["red", "green", "blue"], seed=3, **FEW)
    alone = make()(clip[2:], ["blue"], seed=3, indices=[2], **FEW)
    assert np.abs(alone[0].astype(int) - together[2]).max() <= 1
    assert np.array_equal(alone, make()(clip[2:], ["blue"], seed=3, indices=[2], **FEW))
    assert not np.array_equal(alone, make()(clip[2:], ["blue"], seed=4, indices=[2], **FEW))
    assert not np.array_equal(alone, make()(clip[2:], ["blue"], seed=3, indices=[1], **FEW))


def test_frames_survive_the_patch_autoencoder_in_any_tiling():
    autoencoder = PatchAutoencoder(2, 4)
    clip = frames(2, 5, 40, 72)
    latents = encode(autoencoder, clip, torch.device("cpu"), tile=16)
    assert latents.shape == (2, 12, 5, 20, 36)
    assert np.array_equal(decode(autoencoder, latents, tile=16), clip)
    assert np.array_equal(decode(autoencoder, latents), clip)


@pytest.mark.parametrize(
    "call, message",
    (
        (lambda: interpolator()(frames(1, 1, 4, 4), ["a"]), "key frames: got 1"),
        (lambda: interpolator()(frames(1, 3, 4, 4), ["a", "b"]), "got 2 prompts and 1 clips"),
        (
            lambda: interpolator()(frames(1, 3, 5, 4), ["a"]),
            "height x width: got 5 x 4, wanted positive multiples of 2",
        ),
        (lambda: interpolator()(frames(1, 9, 4, 4), ["a"], window=4, overlap=4), "got 4 and 4 key frames"),
        (lambda: interpolator()(torch.zeros(1, 3, 5, 4, 4), ["a"]), r"key latents: got \(1, 3, 5, 4, 4\)"),
        (lambda: resolver()(frames(1, 3, 4, 4).astype(float), ["a"]), "frames: got float64"),
        (lambda: resolver()(frames(1, 3, 4, 4), ["a"], noise_level=101), "noise_level: got 101, wanted 0 .. 100"),
        (lambda: resolver(max_noise_level=None)(frames(1, 3, 4, 4), ["a"], noise_level=200), "wanted 0 .. 199"),
        (lambda: resolver()(frames(1, 9, 4, 4), ["a"], overlap=8), "window: got windows of 8"),
        (lambda: resolver()(frames(1, 3, 4, 40), ["a"], tile=(32, 32)), "tile: got windows of 32"),
    ),
)
def test_refusals_name_the_setting(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
