"""FreeU changes what enters the residual blocks of two levels, as diffusers' own does."""

import pytest
import torch
from diffusers.utils.torch_utils import apply_freeu, fourier_filter

from lavie.errors import ConfigError
from lavie.inference.free_u import free_u, lowered
from lavie.inference.settings import BaseSettings
from lavie.testing import TOLERANCES, relative_error, tiny_unet
from tests.cascades import random_network

FACTORS = (1.3, 1.4, 0.9, 0.2)


def network():
    """A network of three levels."""
    return random_network(tiny_unet(block_out_channels=(32, 64, 96), cross_attention=(True, True, False)))


def arguments():
    torch.manual_seed(0)
    return torch.randn(1, 4, 2, 16, 12), torch.tensor([300]), torch.randn(1, 5, 24)


@torch.no_grad()
def test_inputs_of_the_blocks_are_those_of_diffusers():
    net, before, after = network(), {}, {}
    with free_u(net, FACTORS):
        for level, block in enumerate(net.up_blocks):
            for i, resnet in enumerate(block.resnets):
                place = (level, i)
                resnet.register_forward_pre_hook(
                    lambda module, given, place=place: before.update({place: (given[0].clone(), given[3].clone())}),
                    prepend=True,
                )
                resnet.register_forward_pre_hook(
                    lambda module, given, place=place: after.update({place: torch.cat([given[0], given[3]], 1)})
                )
        net(*arguments())
    # The widths of the main path: the middle block's, then each level's own.
    widths = {(0, 0): 96, (0, 1): 96, (1, 0): 96, (1, 1): 64, (2, 0): 64, (2, 1): 32}
    assert before.keys() == widths.keys()
    for (level, i), width in widths.items():
        x, skip = before[level, i]
        assert x.shape[1] == width
        if level < 2:
            b1, b2, s1, s2 = FACTORS
            x, skip = apply_freeu(level, x, skip, s1=s1, s2=s2, b1=b1, b2=b2)
        assert relative_error(after[level, i], torch.cat([x, skip], 1)) < TOLERANCES[torch.float32], (level, i)
    assert not torch.equal(torch.cat(before[0, 0], 1), after[0, 0])
    assert torch.equal(torch.cat(before[2, 0], 1), after[2, 0])


@torch.no_grad()
def test_neutral_factors_are_bit_equal_and_nothing_stays_behind():
    net = network()
    plain = net(*arguments())
    with free_u(net, (1, 1, 1, 1)):
        assert torch.equal(net(*arguments()), plain)
    with free_u(net, FACTORS):
        assert not torch.equal(net(*arguments()), plain)
    assert torch.equal(net(*arguments()), plain)


@pytest.mark.parametrize("height, width", ((16, 16), (15, 11), (2, 3)))
def test_slow_waves_are_lowered_as_diffusers_lowers_them(height, width):
    x = torch.randn(3, 4, height, width, generator=torch.Generator().manual_seed(0))
    assert relative_error(lowered(x, 0.3), fourier_filter(x, 1, 0.3)) < TOLERANCES[torch.float32]
    assert lowered(x, 1) is x
    assert lowered(x.bfloat16(), 0.3).dtype == torch.bfloat16


@pytest.mark.parametrize("factors", ((1, 1, 1), (1, 1, 1, -1), (1, 1, float("inf"), 1), (float("nan"), 1, 1, 1)))
def test_other_factors_are_refused(factors):
    with pytest.raises(ConfigError, match=r"freeu: got .* wanted b1, b2, s1, s2"), free_u(network(), factors):
        pass
    with pytest.raises(ValueError, match="freeu"):
        BaseSettings(freeu=factors)


def test_networks_without_two_levels_are_refused():
    small = random_network(tiny_unet(block_out_channels=(32,), cross_attention=(True,)))
    for module in (small, torch.nn.Linear(1, 1)):
        with pytest.raises(ConfigError, match="freeu: the network has no 2 levels"), free_u(module, FACTORS):
            pass
