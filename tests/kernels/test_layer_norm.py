"""The kernels of layer_norm equal float64's definition, forward and backward, at odd sizes and in every dtype."""

import pytest
import torch

from lavie.errors import KernelError
from lavie.kernels import layer_norm as kernels
from lavie.kernels.launch import Chip
from lavie.ops.layer_norm import norm_backward, norm_forward
from lavie.testing import TOLERANCES, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5


def randn(*shape, dtype, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def definition(x, added, weight, bias, rows):
    total = x if added is None else torch.cat([x[: len(added)] + added, x[len(added) :]])
    centred = total[:rows] - total[:rows].mean(1, keepdim=True)
    return total, centred / (centred.square().mean(1, keepdim=True) + EPS).sqrt() * weight + bias


def check(count, added, rows, channels, dtype=torch.float32, passed_by=True, offset=0.0):
    x = randn(count, channels, dtype=dtype, seed=0) + offset
    more = randn(added, channels, dtype=dtype, seed=1) if added else None
    weight, bias = (randn(channels, dtype=dtype, seed=i) for i in (2, 3))
    dn, dtotal = randn(rows, channels, dtype=dtype, seed=4), randn(count, channels, dtype=dtype, seed=5)
    n, *total = norm_forward(x, more, rows, weight, bias, EPS, "triton")
    assert len(total) == bool(added)

    # The norm is that of the sum as it is kept, rounded.
    total = total[0] if total else x
    exact = [None if t is None else t.double().requires_grad_() for t in (x, more, total, weight, bias)]
    assert relative_error(total, definition(exact[0], exact[1], *exact[3:], rows)[0].detach()) <= TOLERANCES[dtype]
    expected = definition(exact[2], None, *exact[3:], rows)[1]
    gradients = torch.autograd.grad(expected, exact[2:], dn.double())
    dx = gradients[0] + dtotal.double() if passed_by else gradients[0]
    found = norm_backward(dn, dtotal if passed_by else None, total, weight, bias, EPS, "triton")
    assert torch.equal(found[1], n)
    for a, e in zip((n, found[0], *found[2]), (expected.detach(), dx, *gradients[1:]), strict=True):
        assert a.dtype == dtype and a.shape == e.shape and relative_error(a, e) <= TOLERANCES[dtype]


@pytest.mark.parametrize(
    "count,added,rows", ((37, 0, 37), (37, 0, 20), (37, 37, 37), (37, 20, 37), (37, 37, 20), (37, 20, 30), (1, 1, 1))
)
def test_equals_the_definition(count, added, rows):
    check(count, added, rows, 40)


@pytest.mark.parametrize("channels", (1, 64, 320, 1280, 2500))
def test_widths(channels):
    check(5, 5, 4, channels)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_dtypes(dtype):
    check(70, 60, 65, 64, dtype)


def test_a_program_walks_several_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "chip_of", lambda x: Chip((9, 0), 1, 232_448))
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    check(211, 130, 150, 64, passed_by=False)  # of 32 rows each


def test_a_large_mean_does_not_cancel():
    check(8, 0, 8, 64, offset=100.0)


def test_what_they_do_not_take_is_told():
    x = randn(2, 8, dtype=torch.float64, seed=0)
    with pytest.raises(KernelError, match=r"layer_norm: kernels is triton, but x is torch\.float64"):
        norm_forward(x, None, 2, x[0], x[1], EPS, "triton")
    wide = torch.zeros(1, 5000, device=DEVICE)
    with pytest.raises(KernelError, match="at least one row, of at most 4096 channels"):
        norm_forward(wide, None, 1, wide[0], wide[0], EPS, "triton")
