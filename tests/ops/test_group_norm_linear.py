"""group_norm_linear equals GroupNorm and a linear layer in float64, with every gradient, and keeps its input alone."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lavie.ops.group_norm_linear import group_norm_linear
from lavie.testing import TOLERANCES, relative_error

GROUPS, EPS = 4, 1e-3


def definition(x, norm_weight, norm_bias, weight, bias):
    """By GroupNorm's formula."""
    v = x.unflatten(1, (GROUPS, -1))
    centred = v - v.mean((2, 3, 4), keepdim=True)
    n = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + EPS).sqrt()).flatten(1, 2)
    n = n.permute(0, 2, 3, 1).flatten(1, 2) * norm_weight + norm_bias
    return x, n @ weight.t() + bias


def ours(x, norm_weight, norm_bias, weight, bias):
    return group_norm_linear(x, norm_weight, norm_bias, GROUPS, EPS, weight, bias)


def inputs(dtype=torch.float64):
    """The tensors, and gradients of both results."""
    g = torch.Generator().manual_seed(0)
    x, dx = (torch.randn(3, 4, 5, 16, generator=g).to(dtype).permute(0, 3, 1, 2) for _ in range(2))
    rest = [torch.randn(shape, generator=g).to(dtype) for shape in ((16,), (16,), (12, 16), (12,))]
    return [x, *rest], [dx, torch.randn(3, 20, 12, generator=g).to(dtype)]


def run(function, tensors, gradients, frozen=()):
    leaves = [t.detach().requires_grad_(i not in frozen) for i, t in enumerate(tensors)]
    pairs = [(y, dy) for y, dy in zip(function(*leaves), gradients, strict=True) if dy is not None]
    outputs, given = zip(*pairs, strict=True)
    wanted = [t for t in leaves if t.requires_grad]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, wanted, given)]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_equals_the_definition(dtype):
    tensors, gradients = inputs(dtype)
    expected = run(definition, [t.double() for t in tensors], [g.double() for g in gradients])
    for a, e in zip(run(ours, tensors, gradients), expected, strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= 2 * TOLERANCES[dtype]  # two roundings in a row


@pytest.mark.parametrize("frozen", ((0,), (1, 2), (3,), (4,), (1, 2, 3, 4)))
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_its_own(frozen):
    tensors, (dx, dy) = inputs()
    given = tensors, [None if 0 in frozen else dx, dy]
    for a, e in zip(run(ours, *given, frozen), run(definition, *given, frozen), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float64]


def test_without_a_residual_connection_the_gradient_is_that_of_the_tokens():
    tensors, (_, dy) = inputs()
    for a, e in zip(run(ours, tensors, [None, dy]), run(definition, tensors, [None, dy]), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float64]


def test_it_keeps_its_input_statistics_and_parameters():
    kept, (tensors, _) = [], inputs()
    leaves = [t.requires_grad_() for t in tensors]
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(*leaves)
    assert [tuple(t.shape) for t in kept] == [(3, 16, 4, 5), (16,), (16,), (3, 4), (3, 4), (12, 16)]
    assert kept[0].data_ptr() == leaves[0].data_ptr()


def test_under_autocast_products_are_rounded_as_linear_layers_are():
    tensors, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        _, y = ours(*tensors)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, definition(*(t.double() for t in tensors))[1]) <= TOLERANCES[torch.bfloat16]
