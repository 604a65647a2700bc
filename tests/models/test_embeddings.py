"""The timestep's sinusoid is diffusers' with SD's settings, the distance buckets are T5's as released."""

import pytest
import torch
from diffusers.models.embeddings import Timesteps

from lavie.models.embeddings import RelativeBias, TimestepEmbedding, distance_buckets, sinusoid
from lavie.testing import TOLERANCES, relative_error


@pytest.mark.parametrize("channels", (32, 320))
def test_sinusoid_is_that_of_diffusers(channels):
    timestep = torch.arange(1000)
    expected = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)(timestep)
    assert relative_error(sinusoid(timestep, channels), expected) <= TOLERANCES[torch.float32]
    assert torch.equal(sinusoid(timestep.double(), channels), sinusoid(timestep, channels))


def test_timestep_embedding_is_linear_silu_linear():
    layer = TimestepEmbedding(6, 10).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    h = x @ layer.linear_1.weight.T + layer.linear_1.bias
    h = h * torch.sigmoid(h) @ layer.linear_2.weight.T + layer.linear_2.bias
    assert relative_error(layer(x).detach(), h.detach()) <= TOLERANCES[torch.float64]


RELEASED = [*range(8), 8, 8, 9, 9, 10, 10, 11, 11, *[12] * 4, *[13] * 3, *[14] * 4, *[15] * 34]
"""The bucket of the distances 0 to 60, from running the released code (reference/networks.md, 1.1)."""


@pytest.mark.parametrize("frames", (1, 16, 61))
def test_buckets_are_the_released_ones(frames):
    buckets = distance_buckets(frames)
    for query in range(frames):
        for key in range(frames):
            offset = 16 if key > query else 0
            assert buckets[query, key] == RELEASED[abs(key - query)] + offset, (query, key)
    assert not (buckets == 16).any()


def test_bias_looks_up_a_row_per_bucket_and_starts_at_zero():
    bias = RelativeBias(3)
    assert not bias(5).any()
    with torch.no_grad():
        bias.relative_attention_bias.weight.copy_(torch.arange(32)[:, None] + torch.tensor([0.0, 100, 200]))
    assert torch.equal(bias(61), distance_buckets(61) + torch.tensor([0.0, 100, 200])[:, None, None])
    bias(16).sum().backward()
    untrained = (bias.relative_attention_bias.weight.grad == 0).all(1).nonzero().flatten().tolist()
    assert untrained == [12, 13, 14, 15, 16, 28, 29, 30, 31]  # 16 frames never see these distances
