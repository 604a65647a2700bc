"""Residual blocks and transformer blocks compile as wholes, without a break in the graph, and compute the same."""

import pytest
import torch

from lavie.models.attention import TransformerBlock
from lavie.models.frames import Frames
from lavie.models.resnet import ResnetBlock
from lavie.testing import TOLERANCES, relative_error, tiny_unet

FRAMES = Frames(3, 2, True)


def resnet_block():
    inputs = [torch.randn(1, 5, 4, 6, c).flatten(0, 1).permute(0, 3, 1, 2) for c in (10, 6)]
    x, skip = (t.requires_grad_() for t in inputs)
    time = torch.randn(1, 12, requires_grad=True)
    return ResnetBlock(16, 8, 12, 4), (x, time, FRAMES, skip)


def transformer_block():
    block = TransformerBlock(tiny_unet(rotary_dim=8), 16, 2, False)
    torch.nn.init.normal_(block.attn_temp.to_out[0].weight)
    return block, (torch.randn(5, 6, 16, requires_grad=True), torch.randn(1, 3, 7, 24, requires_grad=True), FRAMES)


def run(block, function, inputs):
    leaves = [*(t for t in inputs if isinstance(t, torch.Tensor)), *block.parameters()]
    y = function(*inputs)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


@pytest.mark.slow
@pytest.mark.parametrize("make", (resnet_block, transformer_block))
def test_a_block_compiles_as_a_whole(make):
    torch.manual_seed(0)
    block, inputs = make()
    expected = run(block, block, inputs)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for actual, wanted in zip(run(block, compiled, inputs), expected, strict=True):
        assert relative_error(actual.detach(), wanted.detach()) <= TOLERANCES[torch.float32]
