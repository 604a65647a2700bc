"""geglu_linear equals the definition of GEGLU and of a linear layer in float64, and keeps GEGLU's input alone."""

import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lavie.ops.geglu import geglu_linear
from lavie.testing import TOLERANCES, relative_error


def definition(x, weight, bias):
    """By GELU's formula, without torch's own."""
    value, gate = x.split(x.shape[-1] // 2, -1)
    return value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 @ weight.t() + bias


def inputs(dtype=torch.float64, inner=24):
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 2 * inner), (8, inner), (8,), (2, 5, 8))
    return [torch.randn(shape, generator=g).to(dtype) for shape in shapes]


def run(function, x, weight, bias, dy):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
@pytest.mark.parametrize("inner", (24, 7))
def test_equals_the_definition(dtype, inner):
    tensors = inputs(dtype, inner)
    expected = run(definition, *(t.double() for t in tensors))
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), run(geglu_linear, *tensors), expected, strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= TOLERANCES[dtype], name


def test_a_frozen_layer_passes_the_gradient_on():
    x, weight, bias, dy = inputs()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(geglu_linear(x, weight, bias), x, dy)
    assert relative_error(dx, run(definition, x, weight, bias, dy)[1]) <= TOLERANCES[torch.float64]


def test_it_keeps_geglus_input_and_the_weight():
    kept = []
    x, weight, bias, _ = (t.requires_grad_() for t in inputs())
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        geglu_linear(x, weight, bias)
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), weight.data_ptr()]


def test_under_autocast_the_product_is_rounded_as_a_linear_layer_is():
    x, weight, bias, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = geglu_linear(x, weight, bias)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, definition(x.double(), weight.double(), bias.double())) <= TOLERANCES[torch.bfloat16]


def test_operation_is_registered_for_compilers():
    x = inputs(torch.float32)[0]
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.lavie.geglu.default, (x, "auto"), test_utils=utils)
    torch.library.opcheck(
        torch.ops.lavie.geglu_backward.default, (x[..., :24].contiguous(), x, "auto"), test_utils=utils
    )
