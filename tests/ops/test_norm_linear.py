"""norm_linear equals a sum, LayerNorm and a linear layer in float64, with every gradient, and keeps the sum alone."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lavie.ops.norm_linear import norm_linear, packed
from lavie.testing import TOLERANCES, relative_error

EPS = 1e-3


def definition(x, added, norm_weight, norm_bias, weight, bias, rows):
    """By LayerNorm's formula."""
    if added is not None:
        x = torch.cat([x[: len(added)] + added, x[len(added) :]])
    centred = x[:rows] - x[:rows].mean(-1, keepdim=True)
    n = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * norm_weight + norm_bias
    return x, n @ weight.t() if bias is None else n @ weight.t() + bias


def ours(x, added, norm_weight, norm_bias, weight, bias, rows):
    return norm_linear(x, added, rows, norm_weight, norm_bias, EPS, weight, bias)


def inputs(added=4, rows=4, bias=True, dtype=torch.float64):
    """The tensors, how many rows are normalised, and gradients of both results."""
    g = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 16), (added, 3, 16) if added else None, (16,), (16,), (20, 16), (20,) if bias else None]
    tensors = [None if shape is None else torch.randn(shape, generator=g).to(dtype) for shape in shapes]
    return tensors, rows, [torch.randn(n, 3, c, generator=g).to(dtype) for n, c in ((4, 16), (rows, 20))]


def run(function, tensors, rows, gradients, frozen=()):
    leaves = [None if t is None else t.detach().requires_grad_(i not in frozen) for i, t in enumerate(tensors)]
    results = function(*leaves, rows)
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    used = [pair for pair in zip(results, gradients, strict=True) if pair[1] is not None]
    outputs, given = zip(*used, strict=True)
    return [*(r.detach() for r in results), *torch.autograd.grad(outputs, wanted, given)]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
@pytest.mark.parametrize("added,rows", ((0, 4), (4, 4), (4, 3), (3, 4), (0, 3), (2, 3)))
def test_equals_the_definition(added, rows, dtype):
    tensors, rows, gradients = inputs(added, rows, dtype=dtype)
    exact = [None if t is None else t.double() for t in tensors]
    expected = run(definition, exact, rows, [g.double() for g in gradients])
    for a, e in zip(run(ours, tensors, rows, gradients), expected, strict=True):
        assert a.dtype == dtype and relative_error(a, e) <= 2 * TOLERANCES[dtype]  # two roundings in a row


@pytest.mark.parametrize("frozen", ((0,), (1,), (2, 3), (4,), (5,), (2, 3, 4, 5)))
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_its_own(frozen):
    given = inputs()
    for a, e in zip(run(ours, *given, frozen), run(definition, *given, frozen), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float64]


@pytest.mark.parametrize("added,rows", ((4, 4), (0, 3)))
def test_a_sum_that_goes_nowhere_else_has_no_gradient_of_its_own(added, rows):
    tensors, rows, (_, dy) = inputs(added, rows, bias=False)
    for a, e in zip(run(ours, tensors, rows, [None, dy]), run(definition, tensors, rows, [None, dy]), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.float64]


def test_it_keeps_the_sum_and_parameters():
    kept, (tensors, rows, _) = [], inputs()
    leaves = [t.requires_grad_() for t in tensors]
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        total, _ = ours(*leaves, rows)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (total, *leaves[2:5])]


def test_under_autocast_products_are_rounded_as_linear_layers_are():
    tensors, rows, _ = inputs(3, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        total, y = ours(*tensors, rows)
    assert (total.dtype, y.dtype) == (torch.float32, torch.bfloat16)
    for a, e in zip((total, y), definition(*(t.double() for t in tensors), rows), strict=True):
        assert relative_error(a, e) <= TOLERANCES[torch.bfloat16]


def test_packed_weights_lie_one_above_the_other_and_their_gradients_come_apart():
    g = torch.Generator().manual_seed(0)
    a, b, c, d, e = (
        torch.randn(n, m, generator=g).requires_grad_() for n, m in ((2, 3), (4, 3), (2, 3), (2, 5), (1, 5))
    )
    first, alone, last = packed([(a, b), (c,), (d, e)])
    assert torch.equal(first, torch.cat([a, b])) and alone is c and torch.equal(last, torch.cat([d, e]))
    assert first.untyped_storage().data_ptr() == last.untyped_storage().data_ptr()
    factors = [torch.randn(t.shape, generator=g) for t in (first, last)]
    ((first * factors[0]).sum() + (last * factors[1]).sum()).backward()
    for parts, factor in (((a, b), factors[0]), ((d, e), factors[1])):
        assert torch.equal(torch.cat([t.grad for t in parts]), factor)
