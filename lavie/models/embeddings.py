"""Embeddings of the timestep and of relative frame distances."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(timestep: Tensor, channels: int) -> Tensor:
    """Embed timesteps (B,) as (B, channels) float32: cosines, then sines, of wavelengths from 2 pi to 20000 pi."""
    half = channels // 2
    frequency = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=timestep.device))
    angle = timestep.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers over the sinusoid: (B, in_channels) -> (B, channels)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in_channels) to (B, channels)."""
        return self.linear_2(F.silu(self.linear_1(x)))


BUCKETS, MAX_DISTANCE = 32, 32
"""Buckets of relative distance, and the distance in frames from which all share the last one."""


def distance_buckets(frames: int) -> Tensor:
    """Return the bucket of key frame j seen from query frame i, (F, F) int64, as in T5 (bidirectional).

    Distances below 8 have a bucket each, larger ones share logarithmic buckets; later keys use the upper half.
    """
    distance = torch.arange(frames)[None, :] - torch.arange(frames)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    n = distance.abs()
    far = exact + (torch.log(n.clamp_min(1) / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).floor().long()
    return torch.where(n < exact, n, far.clamp_max(half - 1)) + half * (distance > 0)


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of relative frame distance; zero at the start."""

    def __init__(self, heads: int):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)
        nn.init.zeros_(self.relative_attention_bias.weight)

    def forward(self, frames: int) -> Tensor:
        """Return the bias of each head and pair of frames, (heads, F, F), contiguous for both passes of the kernels."""
        table = self.relative_attention_bias
        return table(_buckets_on(table.weight.device, frames)).permute(2, 0, 1).contiguous()


@torch.compiler.assume_constant_result
def _buckets_on(device: torch.device, frames: int) -> Tensor:
    """Return `distance_buckets` on a device, which compiled graphs keep."""
    return kept_buckets(device, frames)


@lru_cache(maxsize=16)
def kept_buckets(device: torch.device, frames: int) -> Tensor:
    """Return `distance_buckets` on a device; every layer and step asks for the same few."""
    with torch.inference_mode(False):  # what is made in inference could not serve training later
        return distance_buckets(frames).to(device)
