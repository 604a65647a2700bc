"""A base network starts from text, frames or a clip, and makes long clips: what it is given, and what comes out."""

import numpy as np
import pytest
import torch
from torch import nn

from lavie.config.model import UNetConfig
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.schedulers import SCHEDULERS
from lavie.inference.segments import cut_segments
from lavie.inference.settings import BaseSettings
from lavie.inference.start import Draft, GivenFrames, Start
from lavie.inference.text_to_video import TextToVideo

SIZE = {"num_frames": 6, "height": 4, "width": 6, "num_inference_steps": 6, "guidance_scale": 1, "scheduler": "euler"}
LONG = {"window": 6, "overlap": 2}


class Identity:
    """An autoencoder whose latents are the pixels."""

    stride, channels = 1, 3

    def decode(self, latents):
        return latents

    def encode(self, pixels, noise=None):
        return pixels


def text_encoder(captions):
    """(n, 2, 3): features that hold each caption's length."""
    return torch.tensor([float(len(c)) for c in captions])[:, None, None].expand(-1, 2, 3).clone()


class Mixer(nn.Module):
    """An arbitrary smooth function of everything it is given, row by row."""

    def __init__(self, in_channels=3):
        super().__init__()
        self.config = UNetConfig(in_channels=in_channels, out_channels=3)
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seen = []

    def forward(self, sample, timestep, text, *, low_res=None, noise_level=None, num_images=0):
        self.seen.append((sample, text, low_res))
        rows = (timestep / 1000 + text.mean(dim=(1, 2, 3)))[:, None, None, None, None]
        given = 0 if low_res is None else low_res.mean(1, keepdim=True)
        return torch.sin(self.weight * sample + rows + given) + sample.mean(dim=2, keepdim=True)


class Copier(Mixer):
    """Knows the noise of clips that stand still and are, at every frame, the last given frame before it."""

    def forward(self, sample, timestep, text, *, low_res=None, noise_level=None, num_images=0):
        self.seen.append((sample, text, low_res))
        mask, latents = low_res[:, :1], low_res[:, 1:]
        clip = latents.clone()
        for frame in range(1, sample.shape[2]):
            made = mask[:, :, frame] == 1
            clip[:, :, frame] = torch.where(made, clip[:, :, frame - 1], clip[:, :, frame])
        share = NoiseSchedule().alphas_cumprod.double()[timestep][:, None, None, None, None]
        return ((sample.double() - share.sqrt() * clip) / (1 - share).sqrt()).float()


def sampler(network=None, takes_frames=False):
    network = network or Mixer(7 if takes_frames else 3)
    return TextToVideo(network, Identity(), text_encoder, NoiseSchedule())


def frames(count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)


# --- frames that are given


def test_without_frames_everything_is_to_be_made():
    sample = sampler(takes_frames=True)
    sample(["red"], **SIZE)
    [low_res] = {id(seen): seen for _, _, seen in sample.network.seen[:1]}.values()
    assert low_res.shape == (1, 4, 6, 4, 6)
    assert (low_res[:, 0] == 1).all() and not low_res[:, 1:].any()


def test_given_frames_lie_at_their_places_in_both_branches_of_guidance():
    sample, given = sampler(takes_frames=True), frames(2)
    start = Start(GivenFrames(given, (0, -1)))
    sample(["red", "a blue one"], start=start, **SIZE | {"guidance_scale": 3})
    low_res = sample.network.seen[0][2]
    assert low_res.shape == (4, 4, 6, 4, 6)
    assert (low_res[:, 0].mean(dim=(2, 3)) == torch.tensor([0.0, 1, 1, 1, 1, 0])).all()
    pixels = torch.from_numpy(given).permute(0, 3, 1, 2) / 127.5 - 1
    for place, frame in zip((0, 5), pixels, strict=True):
        assert torch.allclose(low_res[:, 1:, place], frame.expand(4, 3, 4, 6), atol=1e-6)
    assert not low_res[:, 1:, 1:5].any()


@pytest.mark.parametrize("place", (0, 3))
def test_a_network_that_keeps_given_frames_gives_them_back(place):
    sample, given = sampler(Copier(7)), frames()
    start = Start(GivenFrames(given, (place,)))
    [clip] = sample(["red"], start=start, **SIZE | {"scheduler": "dpm++", "num_inference_steps": 20})
    assert np.abs(clip[place].astype(int) - given[0]).max() <= 1
    assert np.abs(clip[-1].astype(int) - given[0]).max() <= 1


# --- a clip that is drawn over


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("takes_frames", (False, True))
def test_strength_1_is_text_to_video_and_0_is_the_clip(name, takes_frames):
    sample, clip = sampler(takes_frames=takes_frames), frames(6)
    settings = SIZE | {"scheduler": name, "guidance_scale": 2, "num_inference_steps": 5}
    text = sample(["red"], **settings)
    assert np.array_equal(sample(["red"], start=Start(draft=Draft(clip, 1.0)), **settings), text)
    calls = len(sample.network.seen)
    assert np.array_equal(sample(["red"], start=Start(draft=Draft(clip, 0.0)), **settings)[0], clip)
    assert len(sample.network.seen) == calls


class WhiteNoise(Mixer):
    """The best guess of the noise where clips are white noise themselves, of the variance of `frames`: 1 / 3."""

    def forward(self, sample, timestep, text, *, num_images=0):
        self.seen.append((sample, text, None))
        share = NoiseSchedule().alphas_cumprod.double()[timestep][:, None, None, None, None]
        return (sample * (1 - share).sqrt() / (share / 3 + 1 - share)).float()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_more_strength_keeps_less_of_the_clip(name):
    sample, clip = sampler(WhiteNoise()), frames(6)
    settings = SIZE | {"scheduler": name, "num_inference_steps": 20}
    errors, calls = [], []
    for strength in (0.2, 0.4, 0.6, 0.8):
        sample.network.seen.clear()
        [drawn] = sample(["red"], start=Start(draft=Draft(clip, strength)), **settings)
        errors.append(np.square(drawn.astype(float) - clip).mean())
        calls.append(len(sample.network.seen))
    assert errors == sorted(errors) and errors[0] < errors[-1]
    assert calls == [4, 8, 12, 16]


def test_the_noise_of_a_draft_is_that_of_its_first_step():
    sample, clip = sampler(), frames(6)
    sample(["red"], start=Start(draft=Draft(clip, 0.5)), **SIZE | {"scheduler": "ddim", "num_inference_steps": 50})
    first = sample.network.seen[0][0]
    x0 = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] / 127.5 - 1
    share = NoiseSchedule().alphas_cumprod[481]  # the 26th of 50 steps: 981, 961 ... 1
    noise = (first - share.sqrt() * x0) / (1 - share).sqrt()
    sample.network.seen.clear()
    sample(["red"], **SIZE | {"scheduler": "ddim"})
    assert torch.allclose(noise, sample.network.seen[0][0], atol=1e-5)


def test_progress_counts_the_steps_that_are_taken():
    seen = []
    start = Start(draft=Draft(frames(6), 0.5))
    sampler()(["red"], start=start, progress=lambda *at: seen.append(at), **SIZE)
    assert seen == [(1, 3), (2, 3), (3, 3)]


# --- long clips


@pytest.mark.parametrize("method", ("windows", "recursion"))
@pytest.mark.parametrize("count", (1, 4, 6))
def test_up_to_a_window_every_method_is_the_same(method, count):
    sample = sampler(takes_frames=method == "recursion")
    settings = SIZE | {"num_frames": count}
    expected = sample(["red"], **settings)
    assert np.array_equal(sample(["red"], method=method, **LONG, **settings), expected)


def test_recursion_gives_each_segment_the_last_frames_of_the_one_before():
    sample = sampler(takes_frames=True)
    [clip] = sample(["red"], method="recursion", **LONG, **SIZE | {"num_frames": 13})
    steps = SIZE["num_inference_steps"]
    segments = cut_segments(13, 6, 2)
    assert len(sample.network.seen) == steps * len(segments) == steps * 3
    assert clip.shape == (13, 4, 6, 3)
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2) / 127.5 - 1
    for number, segment in enumerate(segments[1:], 1):
        low_res = sample.network.seen[number * steps][2][0]
        assert low_res[0].mean(dim=(1, 2)).tolist() == [0, 0, 1, 1, 1, 1]
        # Latents pass on as they are: pixels are what they round and cut to.
        told = low_res[1:, :2].clamp(-1, 1)
        assert (told - pixels[:, segment.begin : segment.new]).abs().max() <= 1 / 127.5
    # The first segment is what text alone gives; each has noise of its own.
    [alone] = sample(["red"], **SIZE)
    assert np.array_equal(clip[:6], alone)
    noises = [sample.network.seen[number * steps][0] for number in range(3)]
    assert not any(torch.equal(noises[0], other) for other in noises[1:]) and not torch.equal(*noises[1:])


def test_recursion_is_repeatable_and_independent_of_the_batch():
    sample = sampler(takes_frames=True)
    settings = dict(method="recursion", **LONG, **SIZE | {"num_frames": 10})
    both = sample(["red", "blue thing"], **settings)
    [alone] = sample(["blue thing"], indices=[1], **settings)
    assert np.abs(alone.astype(int) - both[1]).max() <= 1


def test_segments_have_prompts_of_their_own_and_the_last_goes_on():
    sample = sampler(takes_frames=True)
    start = Start(segments=("1", "22"))
    sample(["none of these"], start=start, method="recursion", **LONG, **SIZE | {"num_frames": 14})
    steps = SIZE["num_inference_steps"]
    assert [sample.network.seen[n * steps][1].max().item() for n in range(3)] == [1, 2, 2]
    sample.network.seen.clear()
    sample(["none of these"], start=Start(segments=("1",)), **SIZE)
    assert sample.network.seen[0][1].max() == 1


def test_recursion_keeps_what_is_given_at_both_ends():
    sample, given = sampler(Copier(7)), frames(2)
    start = Start(GivenFrames(given, (0, -1)))
    settings = SIZE | {"scheduler": "dpm++", "num_inference_steps": 20, "num_frames": 12}
    [clip] = sample(["red"], start=start, method="recursion", **LONG, **settings)
    assert np.abs(clip[0].astype(int) - given[0]).max() <= 1
    assert np.abs(clip[10].astype(int) - given[0]).max() <= 1
    assert np.abs(clip[11].astype(int) - given[1]).max() <= 1


def test_progress_of_recursion_counts_all_segments():
    seen = []
    settings = dict(method="recursion", **LONG, **SIZE | {"num_frames": 10, "num_inference_steps": 2})
    sampler(takes_frames=True)(["red"], progress=lambda *at: seen.append(at), **settings)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_windows_never_show_the_network_more_than_a_window():
    sample = sampler()
    [clip] = sample(["red"], method="windows", **LONG, **SIZE | {"num_frames": 40})
    assert clip.shape == (40, 4, 6, 3)
    assert {seen.shape[2] for seen, _, _ in sample.network.seen} == {6}


# --- refusals

STILL = GivenFrames(frames(), (0,))


@pytest.mark.parametrize(
    "takes_frames, start, change, message",
    (
        (
            False,
            Start(STILL),
            {},
            "given frames: .* takes none; wanted .* condition: frames, or --strength",
        ),
        (False, Start(), {"num_frames": 9, "method": "recursion"}, "method recursion, .* takes none.*--method windows"),
        (True, Start(GivenFrames(frames(6), tuple(range(6)))), {}, "got 6 given frames, and the clip has 6"),
        (True, Start(GivenFrames(frames(2), (0, -6))), {}, r"given frames at \(0, -6\): wanted different places"),
        (
            True,
            Start(GivenFrames(frames(), (6,))),
            {},
            r"given frames at \(6,\): wanted different places in a clip",
        ),
        (True, Start(GivenFrames(frames()[:, :3], (0,))), {}, r"got uint8 \(1, 3, 6, 3\), wanted uint8 \(F, 4, 6, 3\)"),
        (True, Start(), {"num_frames": 9, "method": "recursion", "overlap": 6}, "base.overlap: got 6 .* wanted 1 .. 5"),
        (False, Start(), {"num_frames": 9, "method": "windows", "overlap": 6}, "base.window: .* overlap of 0 .. 5"),
        (True, Start(segments=("a", "b")), {}, "prompts of 2 segments, and the clip of 6 frames has 1"),
        (False, Start(draft=Draft(frames(5), 0.5)), {}, "a draft of 5 frames for a clip of 6"),
        (True, Start(STILL, Draft(frames(6), 0.5)), {}, "strength: a clip that is drawn over has no given frames"),
    ),
)
def test_what_cannot_be_sampled_is_refused_before_the_network_is_called(takes_frames, start, change, message):
    sample = sampler(takes_frames=takes_frames)
    settings = SIZE | LONG | change
    with pytest.raises(ConfigError, match=message):
        sample.require(start, BaseSettings(**settings))
    with pytest.raises(ConfigError, match=message):
        sample(["red"], start=start, **settings)
    assert not sample.network.seen


@pytest.mark.parametrize("strength", (-0.1, 1.1, float("nan")))
def test_a_strength_lies_between_0_and_1(strength):
    with pytest.raises(ConfigError, match=r"strength: got .*, wanted 0 \(keeps the clip\) .. 1"):
        Draft(frames(6), strength)
