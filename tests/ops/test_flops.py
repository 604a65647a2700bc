"""PyTorch's FLOP counter sees into the operations: the counts of the same products done by its own."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lavie.ops.pseudo3d_conv import pseudo3d_block, pseudo3d_conv
from lavie.ops.temporal_attention import temporal_attention


def count(function, *tensors) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return counter.get_total_flops()


def test_temporal_attention():
    qkv = torch.randn(2, 5, 7, 3, 2, 32)
    q, k, v = qkv.unbind(3)

    def products(q, k, v):
        q, k, v = (t.permute(0, 2, 3, 1, 4).flatten(0, 2) for t in (q, k, v))
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)), v)

    assert count(temporal_attention, qkv) == count(products, q, k, v) > 0
    assert count(temporal_attention, qkv.to("meta")) == count(products, q, k, v)


def test_pseudo3d_conv():
    x, weight = torch.randn(2, 6, 5, 8), torch.randn(12, 8, 3, 1, 1)
    expected = count(lambda x, w: F.conv3d(x.permute(0, 3, 1, 2)[..., None], w, padding=(1, 0, 0)), x, weight)
    assert count(pseudo3d_conv, x, weight) == expected > 0


def test_pseudo3d_block():
    x = torch.randn(6, 8, 4, 5).to(memory_format=torch.channels_last)
    weight1, weight2 = torch.randn(8, 8, 5, 1, 1), torch.randn(8, 8, 3, 1, 1)
    norm, bias = (torch.ones(8), torch.zeros(8)), torch.zeros(8)

    def block(x, weight1, weight2):
        return pseudo3d_block(x, norm, (weight1, bias), norm, (weight2, bias), frames=3, groups=2, eps=1e-5)

    def convolutions(x, weight1, weight2):
        clips = x.unflatten(0, (2, 3)).transpose(1, 2)
        F.conv3d(clips, weight1, padding=(2, 0, 0))
        F.conv3d(clips, weight2, padding=(1, 0, 0))

    assert count(block, x, weight1, weight2) == count(convolutions, x, weight1, weight2) > 0
