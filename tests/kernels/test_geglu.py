"""The kernels of geglu equal float64's definition, forward and backward, at odd sizes and in every dtype."""

import math

import pytest
import torch

from lavie.errors import KernelError
from lavie.ops.geglu import geglu, geglu_backward, geglu_linear
from lavie.testing import TOLERANCES, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def definition(x):
    value, gate = x.split(x.shape[-1] // 2, -1)
    return value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize(
    "rows, inner, dtype",
    ((3, 7, torch.float32), (5, 512, torch.float32), (130, 16, torch.bfloat16), (2, 40, torch.float16)),
)
def test_equals_the_definition(rows, inner, dtype):
    x, dy = randn(rows, 2 * inner).to(dtype), randn(rows, inner, seed=1).to(dtype)
    exact = x.double().requires_grad_()
    expected = definition(exact)
    (dexact,) = torch.autograd.grad(expected, exact, dy.double())
    y = geglu(x, "triton")
    dx, again = geglu_backward(dy, x, "triton")
    assert torch.equal(y, again) and y.dtype == dx.dtype == dtype
    assert relative_error(y, expected.detach()) <= TOLERANCES[dtype]
    assert relative_error(dx, dexact) <= TOLERANCES[dtype]


def test_gates_far_from_zero_are_open_or_shut():
    x = torch.cat([torch.full((1, 8), 3.0), torch.tensor([[-60.0, -9.0, -6.0, 0.0, 6.0, 9.0, 60.0, 1e4]])], 1).to(
        DEVICE
    )
    assert torch.equal(geglu(x, "triton")[0, [0, 3, 5, 6, 7]].cpu(), torch.tensor([-0.0, 0.0, 27.0, 180.0, 3e4]))
    dx, _ = geglu_backward(torch.ones(1, 8, device=DEVICE), x, "triton")
    assert torch.isfinite(dx).all() and float(dx[0, 15]) == 3.0 and float(dx[0, 8]) == 0.0


def test_other_dtypes_are_told():
    with pytest.raises(KernelError, match=r"geglu: kernels is triton, but x is torch\.float64"):
        geglu_linear(randn(2, 8).double(), randn(3, 4).double(), randn(3).double(), backend="triton")
