"""The forms of changes against sums written out."""

import math

import pytest
import torch
from torch import Size

from lavie.models.lora.change import Hadamard, Kronecker, LowRank, Whole, fitted, fitted_shape
from lavie.testing import TOLERANCES, relative_error

OUT, IN, R, K = 6, 4, 2, 3


def draw(*shape):
    """Random numbers, the same for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def check(change, wanted):
    """The delta of a change has its shape and the wanted values."""
    assert change.delta().shape == change.shape and change.delta().dtype == torch.float32
    assert relative_error(change.delta().reshape(wanted.shape), wanted) < TOLERANCES[torch.float32]


def test_low_rank():
    up, down = draw(OUT, R), draw(R, IN)
    wanted = sum(torch.outer(up[:, r].double(), down[r].double()) for r in range(R))
    check(LowRank(up, down, None, 0.25), 0.25 * wanted)
    check(LowRank(up.half(), down.half(), None, 1.0), up.half().double() @ down.half().double())
    kernel = draw(R, IN, K, K)
    check(LowRank(up[..., None, None], kernel, None, 2.0), 2 * torch.einsum("or,rikl->oikl", up, kernel).double())


def test_tucker_is_three_convolutions():
    up, mid, down = draw(OUT, R, 1, 1), draw(R, R, K, K), draw(R, IN, 1, 1)
    change = LowRank(up, down, mid, 0.5)
    x = draw(1, IN, 7, 7)
    wanted = torch.conv2d(torch.conv2d(torch.conv2d(x, down), mid, padding=1), up)
    assert change.shape == (OUT, IN, K, K)
    assert relative_error(torch.conv2d(x, change.delta(), padding=1), 0.5 * wanted) < TOLERANCES[torch.float32]
    up, down = change.factors()
    assert relative_error((up @ down.flatten(1)).view(OUT, IN, K, K), change.delta()) < TOLERANCES[torch.float32]


def test_hadamard():
    a1, b1, a2, b2 = draw(OUT, R), draw(R, IN * K * K), draw(OUT, R) + 1, draw(R, IN * K * K) - 1
    wanted = torch.tensor(
        [
            [
                sum(a1[o, r].item() * b1[r, i].item() for r in range(R))
                * sum(a2[o, r].item() * b2[r, i].item() for r in range(R))
                for i in range(IN * K * K)
            ]
            for o in range(OUT)
        ]
    )
    check(Hadamard(a1, b1, a2, b2, multiplier=0.5), 0.5 * wanted)


def test_kronecker():
    a, b = draw(2, 2), draw(3, 2)
    wanted = torch.tensor([[a[i // 3, j // 2] * b[i % 3, j % 2] for j in range(4)] for i in range(6)])
    check(Kronecker((a,), (b,), 3.0), 3 * wanted)
    left, right = draw(3, R), draw(R, 2)
    check(Kronecker((a,), (left, right)), torch.kron(a.double(), left.double() @ right.double()))
    kernel = draw(3, 2, K, K)
    wanted = torch.stack([torch.kron(a, kernel[..., k // K, k % K]) for k in range(K * K)], -1).view(6, 4, K, K)
    check(Kronecker((a,), (kernel,)), wanted)


@pytest.mark.parametrize(
    "name, change, weight, wanted",
    (
        ("a.weight", (6, 4), (6, 4), (6, 4)),
        ("a.weight", (6, 4), (6, 4, 1, 1), (6, 4, 1, 1)),
        ("a.weight", (6, 4, 1, 1), (6, 4), (6, 4)),
        ("a.weight", (6, 36), (6, 4, 3, 3), (6, 4, 3, 3)),
        ("a.weight", (6, 9, 2, 2), (6, 4, 3, 3), None),
        ("a.weight", (6, 4, 3, 3), (6, 8, 3, 3), None),
        ("conv_in.weight", (6, 4, 3, 3), (6, 8, 3, 3), (6, 4, 3, 3)),
        ("conv_in.weight", (6, 36), (6, 9, 3, 3), (6, 4, 3, 3)),
        ("conv_in.weight", (6, 9, 3, 3), (6, 4, 3, 3), None),
        ("a.weight", (5, 4), (6, 4), None),
        ("a.bias", (6,), (6,), (6,)),
    ),
)
def test_what_fits(name, change, weight, wanted):
    assert fitted_shape(name, Size(change), Size(weight)) == wanted


def test_a_condition_keeps_its_channels():
    delta = draw(6, 4, 3, 3)
    whole = fitted("conv_in.weight", delta, Size((6, 9, 3, 3)))
    assert torch.equal(whole[:, :4], delta) and not whole[:, 4:].any()


def test_whole():
    check(Whole(draw(6, 4).half()), draw(6, 4).half().double())
