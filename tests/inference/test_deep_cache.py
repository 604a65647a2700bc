"""Steps between two whole ones take the deep features of the first: what they compute, and how much less."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lavie.config.model import UNetConfig
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.chunking import Axis
from lavie.inference.deep_cache import DeepCache
from lavie.inference.free_u import free_u
from lavie.inference.sampler import Denoising
from lavie.inference.settings import BaseSettings
from lavie.inference.start import Draft, Start
from lavie.inference.text_to_video import TextToVideo
from lavie.models.autoencoder import PatchAutoencoder
from lavie.models.text_encoder import HashTextEncoder
from lavie.models.unet import VideoUNet
from lavie.testing import tiny_unet
from tests.cascades import STAGE_MODELS, random_network


def inputs(config, seed=0, frames=3):
    """The arguments of a network of a stage."""
    torch.manual_seed(seed)
    condition = config.in_channels - config.out_channels
    given = {"low_res": torch.randn(2, condition, frames, 8, 8)} if condition else {}
    if config.num_noise_levels:
        given["noise_level"] = torch.tensor([3, 5])
    text = torch.randn(2, 5, config.cross_attention_dim)
    return (torch.randn(2, config.out_channels, frames, 8, 8), torch.tensor([400, 400]), text), given


@pytest.mark.parametrize("stage", STAGE_MODELS)
@torch.no_grad()
def test_a_step_between_repeats_a_whole_one_where_nothing_has_changed(stage):
    """The deep features are the step's own then, so all that is computed anew must come out the same."""
    network = random_network(tiny_unet(**STAGE_MODELS[stage]))
    arguments, given = inputs(network.config)
    plain = network(*arguments, **given)
    cache = DeepCache(network, 3)
    assert torch.equal(cache(0, 0, *arguments, **given), plain)
    for step in (1, 2):
        assert torch.equal(cache(step, 0, *arguments, **given), plain)
    # Later it is the input of the step and deep features of an older one; whole steps come back.
    later, _ = inputs(network.config, seed=1)
    later = (later[0], *arguments[1:])
    between = cache(4, 0, *later, **given)
    assert not torch.equal(between, network(*later, **given)) and not torch.equal(between, plain)
    assert torch.equal(cache(6, 0, *later, **given), network(*later, **given))


@torch.no_grad()
def test_branches_keep_features_of_their_own_and_images_have_none_of_time():
    network = random_network(tiny_unet())
    (sample, t, text), _ = inputs(network.config, frames=1)
    cache = DeepCache(network, 2)
    texts = [text.expand(-1, -1, -1)[:, None].expand(-1, 2, -1, -1), -text[:, None].expand(-1, 2, -1, -1)]
    wanted = [network(sample, t, one, num_images=1) for one in texts]
    for step in (0, 1):
        for branch, one in enumerate(texts):
            assert torch.equal(cache(step, branch, sample, t, one, num_images=1), wanted[branch])


@torch.no_grad()
def test_free_u_changes_steps_between_as_it_changes_whole_ones():
    """On two levels FreeU changes the layer that a step between computes: once, not twice."""
    network = random_network(tiny_unet())
    arguments, given = inputs(network.config)
    cache = DeepCache(network, 2)
    with free_u(network, (1.3, 1.4, 0.9, 0.2)):
        whole = cache(0, 0, *arguments, **given)
        assert torch.equal(cache(1, 0, *arguments, **given), whole)
    assert not torch.equal(whole, network(*arguments, **given))


def draw(network=None, **changes):
    """Sample a tiny clip."""
    network = network or random_network(tiny_unet(in_channels=12, out_channels=12))
    sampler = TextToVideo(network, PatchAutoencoder(2, 4), HashTextEncoder(24, 6), NoiseSchedule())
    values = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 6} | changes
    return sampler(["a fox"], **values)


@pytest.mark.parametrize("sequential", (False, True))
def test_interval_1_is_bit_equal_and_others_are_near(sequential):
    plain = draw(sequential_guidance=sequential)
    assert (draw(cache_interval=1, sequential_guidance=sequential) == plain).all()
    cached = draw(cache_interval=2, sequential_guidance=sequential)
    assert (cached != plain).any()


def test_a_clip_that_is_drawn_over_keeps_features_from_the_first_step_that_it_takes():
    network = random_network(tiny_unet(in_channels=12, out_channels=12))
    whole, watched, steps = [], [], []
    network.register_forward_hook(lambda *_: whole.append(1))  # steps between pass by it
    clip = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    common = {"cache_interval": 2, "freeu": (1.2, 1.4, 0.9, 0.2)}
    calls = {"watch": watched.append, "progress": lambda *at: steps.append(at)}
    drawn = draw(network, start=Start(draft=Draft(clip, 0.5)), **common, **calls)
    assert (len(whole), len(watched), steps) == (2, 3, [(1, 3), (2, 3), (3, 3)])
    assert (drawn != draw(network, start=Start(draft=Draft(clip, 0.5)), cache_interval=2)).any()  # FreeU's part
    assert (draw(network, start=Start(draft=Draft(clip, 1)), **common) == draw(network, **common)).all()


def flops(network, interval, steps=6):
    """Count the operations of some steps on the meta device."""
    device = torch.device("meta")
    sample = torch.empty(2, 4, 16, 40, 64, device=device)
    text = torch.empty(2, 77, network.config.cross_attention_dim, device=device)
    cache = DeepCache(network, interval)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for step in range(steps):
            cache(step, 0, sample, torch.empty(2, device=device), text)
    return counter.get_total_flops()


@pytest.mark.slow
def test_interval_3_halves_the_work_of_the_released_base_network():
    """At 16 x 320 x 512, counted by torch's FLOP counter on tensors without data."""
    with torch.device("meta"):
        network = VideoUNet(UNetConfig(preset="base")).eval()
    whole = flops(network, 1)
    assert whole / flops(network, 3) >= 2
    assert whole / flops(network, 2) >= 1.5


def test_what_cannot_be_cached_is_refused():
    network = random_network(tiny_unet(in_channels=12, out_channels=12))
    with pytest.raises(ConfigError, match="cache_interval: got 0, wanted 1"):
        DeepCache(network, 0)
    with pytest.raises(ConfigError, match="cache_interval: got 2, and Linear is no VideoUNet: wanted 1"):
        DeepCache(torch.nn.Linear(1, 1), 2)
    sampler = TextToVideo(network, PatchAutoencoder(2, 4), HashTextEncoder(24, 6), NoiseSchedule())
    call = Denoising.of(BaseSettings(), {"cache_interval": 2})
    axes = [Axis(8, 4, 2), Axis(8, 8), Axis(8, 8)]
    with pytest.raises(ConfigError, match="cache_interval: got 2, and the clip is cut into windows"):
        sampler._denoise((12, 8, 8, 8), ["a"], call, purpose="sample", axes=axes)
