"""The operations behind norm_linear, which its tests hold to the definition, tell compilers what they give."""

import pytest
import torch

from lavie.ops.layer_norm import norm_backward, norm_forward
from lavie.testing import TOLERANCES, check_operation, relative_error

EPS = 1e-5


def inputs(dtype=torch.float32):
    """x, what is added to it, weight, bias and a gradient."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g).to(dtype) for shape in ((6, 8), (4, 8), (8,), (8,), (5, 8))]


def test_the_norm_is_that_of_the_first_rows_of_the_sum():
    x, added, weight, bias, _ = inputs(torch.float64)
    n, total = norm_forward(x, added, 5, weight, bias, EPS, "torch")
    assert torch.equal(total[:4], x[:4] + added) and torch.equal(total[4:], x[4:])
    centred = total[:5] - total[:5].mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + EPS).sqrt() * weight + bias
    assert relative_error(n, expected) <= TOLERANCES[torch.float64]


def test_rows_without_a_norm_have_the_gradient_that_comes_from_elsewhere():
    x, _, weight, bias, dn = inputs(torch.float64)
    dx, n, _ = norm_backward(dn, x + 1, x, weight, bias, EPS, "torch")
    assert torch.equal(dx[5:], x[5:] + 1) and len(n) == 5
    assert not norm_backward(dn, None, x, weight, bias, EPS, "torch")[0][5:].any()


@pytest.mark.slow
@pytest.mark.parametrize("added", (True, False))
def test_opcheck(added):
    x, more, weight, bias, dn = inputs()
    forward = (x, more if added else None, 5, weight, bias, EPS, "torch")
    backward = (dn, x if added else None, x, weight, bias, EPS, "torch")
    check_operation("add_layer_norm", forward, "add_layer_norm_backward", backward)
