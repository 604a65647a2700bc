"""norm_linear equals LayerNorm and linear layers in float64, with every gradient, and keeps the norm's input alone."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lavie.ops.norm_linear import norm_linear
from lavie.testing import TOLERANCES, relative_error

EPS = 1e-3


def definition(x, norm_weight, norm_bias, bias, *weights):
    """By LayerNorm's formula, one layer after the other."""
    centred = x - x.mean(-1, keepdim=True)
    n = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * norm_weight + norm_bias
    y = torch.cat([n @ weight.t() for weight in weights], -1)
    return y if bias is None else y + bias


def ours(x, norm_weight, norm_bias, bias, *weights):
    return norm_linear(x, norm_weight, norm_bias, EPS, weights, bias)


def inputs(layers=3, with_bias=False, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    sizes = [8, 8, 4][:layers]
    shapes = [(2, 3, 5, 16), (16,), (16,), (sum(sizes),) if with_bias else None, *((size, 16) for size in sizes)]
    tensors = [None if shape is None else torch.randn(shape, generator=g).to(dtype) for shape in shapes]
    return tensors, torch.randn(2, 3, 5, sum(sizes), generator=g).to(dtype)


def run(function, tensors, dy, frozen=()):
    leaves = [None if t is None else t.detach().requires_grad_(i not in frozen) for i, t in enumerate(tensors)]
    y = function(*leaves)
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, dy)]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
@pytest.mark.parametrize("layers,with_bias", ((1, False), (1, True), (3, False), (3, True)))
def test_equals_the_definition(layers, with_bias, dtype):
    tensors, dy = inputs(layers, with_bias, dtype)
    exact = [None if t is None else t.double() for t in tensors]
    for a, e in zip(run(ours, tensors, dy), run(definition, exact, dy.double()), strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= 2 * TOLERANCES[dtype]  # two roundings in a row


@pytest.mark.parametrize("frozen", ((0,), (1, 2), (4, 5, 6), (5,), (1, 2, 3, 4, 5, 6)))
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_its_own(frozen):
    tensors, dy = inputs(with_bias=True)
    for a, e in zip(run(ours, tensors, dy, frozen), run(definition, tensors, dy, frozen), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float64]


def test_it_keeps_the_norms_input_and_parameters():
    kept, (tensors, _) = [], inputs()
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(*leaves)
    assert [t.data_ptr() for t in kept[:3]] == [t.data_ptr() for t in leaves[:3]]
    assert [tuple(t.shape) for t in kept[3:]] == [(20, 16)]  # the packed weights


def test_under_autocast_products_are_rounded_as_linear_layers_are():
    tensors, _ = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(*tensors)
    assert y.dtype == torch.bfloat16
    expected = definition(*(None if t is None else t.double() for t in tensors))
    assert relative_error(y, expected) <= TOLERANCES[torch.bfloat16]
