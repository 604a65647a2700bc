"""What a file adds to one weight, in each of the forms in which files hold it.

Every change has a `shape`, that of the weight as far as the factors tell it, and a `delta`, computed in float32. Where
a file stores matrices for convolutions, the input channels and the kernel are one axis: (out, in * kh * kw).
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Size, Tensor


@dataclass(frozen=True)
class LowRank:
    """LoRA: multiplier * up @ down; with `mid`, the three convolutions of LoCon's Tucker form one after the other."""

    up: Tensor
    """(out, r), or (out, r, 1, 1)."""
    down: Tensor
    """(r, in), or (r, in, kh, kw) of a convolution; (r, in, 1, 1) beside `mid`."""
    mid: Tensor | None = None
    """(r, r, kh, kw)."""
    multiplier: float = 1.0
    """alpha / r."""

    @property
    def shape(self) -> Size:
        """The shape of the change."""
        inner = self.down if self.mid is None else self.mid
        return Size((self.up.shape[0], self.down.shape[1], *inner.shape[2:]))

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the change, float32."""
        up, down = (factor.to(device) for factor in self.factors())
        return (up @ down.flatten(1)).reshape(self.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return float32 (out, r) and (r, in) or (r, in, kh, kw), whose product is the change: alpha is r for them."""
        up, down = self.multiplier * self.up.float().flatten(1), self.down.float()
        if self.mid is not None:
            down = torch.einsum("ijkl,jc->ickl", self.mid.float(), down.flatten(1))
        return up, down


@dataclass(frozen=True)
class Hadamard:
    """LoHa: multiplier * (w1_a @ w1_b) * (w2_a @ w2_b), element by element (FedPara, Hyeon-Woo et al., 2022).

    With t1 and t2 each factor is a Tucker product, and w1_a and w2_a are (r, out).
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    multiplier: float = 1.0

    @property
    def shape(self) -> Size:
        """The shape of the change."""
        if self.t1 is None:
            return Size((self.w1_a.shape[0], self.w1_b.shape[1]))
        return Size((self.w1_a.shape[1], self.w1_b.shape[1], *self.t1.shape[2:]))

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the change, float32."""
        first = _product(self.w1_a, self.w1_b, self.t1, device)
        return self.multiplier * first * _product(self.w2_a, self.w2_b, self.t2, device)


@dataclass(frozen=True)
class Kronecker:
    """LoKr: multiplier * kron(w1, w2), where each of the two is whole or a product of two factors.

    After LyCORIS (Yeh et al., 2024). w1 has two axes, w2 those of the weight.
    """

    w1: tuple[Tensor, ...]
    """(whole,) or (a, b)."""
    w2: tuple[Tensor, ...]
    """(whole,), (a, b), or (a, b, t) of a Tucker product."""
    multiplier: float = 1.0

    @property
    def shape(self) -> Size:
        """The shape of the change."""
        w1, w2 = _shape_of(self.w1), _shape_of(self.w2)
        return Size((w1[0] * w2[0], w1[1] * w2[1], *w2[2:]))

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the change, float32."""
        w1, w2 = _whole(self.w1, device), _whole(self.w2, device)
        w1 = w1.reshape(*w1.shape, *(1,) * (w2.ndim - w1.ndim))
        return self.multiplier * torch.kron(w1, w2.contiguous())


@dataclass(frozen=True)
class Whole:
    """A change that the file holds as it is, of a weight or a bias."""

    diff: Tensor

    @property
    def shape(self) -> Size:
        """The shape of the change."""
        return self.diff.shape

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the change, float32."""
        return self.diff.to(device, torch.float32)


Change = LowRank | Hadamard | Kronecker | Whole


def fitted_shape(name: str, change: Size, weight: Size) -> Size | None:
    """Return the shape in which a change meets its weight, or None if the two do not fit.

    A matrix fits a convolution of as many numbers. The change of an input layer of fewer channels is one of the noisy
    latents' channels, which come first: those of a condition stay as they are.

    Args:
        name: the weight's.
        change: the shape of the change.
        weight: the shape of the weight.
    """
    if not change or not weight or change[0] != weight[0]:
        return None
    same_axes = len(change) <= 2 or tuple(change[1:]) == (*weight[1:], 1, 1)[: len(change) - 1]
    if prod(change) == prod(weight) and same_axes:
        return weight
    kernel = prod(weight[2:])
    channels = prod(change[1:]) // kernel
    short = name == "conv_in.weight" and len(weight) == 4 and 0 < channels < weight[1]
    if short and channels * kernel == prod(change[1:]) and (len(change) == 2 or change[2:] == weight[2:]):
        return Size((weight[0], channels, *weight[2:]))
    return None


def fitted(name: str, delta: Tensor, weight: Size) -> Tensor:
    """Return a change in the shape of its weight, with zeros for the channels that it does not reach."""
    shape = fitted_shape(name, delta.shape, weight)
    assert shape is not None, f"{name}: {tuple(delta.shape)} for {tuple(weight)}"
    delta = delta.reshape(shape)
    if shape == weight:
        return delta
    return torch.cat([delta, delta.new_zeros(weight[0], weight[1] - shape[1], *weight[2:])], 1)


def _product(a: Tensor, b: Tensor, t: Tensor | None, device: torch.device | str) -> Tensor:
    """Return a @ b, whose b may have a kernel, or with t (r, r, kh, kw) the Tucker product of a (r, out), b (r, in)."""
    a, b = a.to(device, torch.float32), b.to(device, torch.float32)
    if t is None:
        return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])
    return torch.einsum("ij...,io,jc->oc...", t.to(device, torch.float32), a, b)


def _whole(parts: tuple[Tensor, ...], device: torch.device | str) -> Tensor:
    """Return the matrix of LoKr that `parts` are."""
    if len(parts) == 1:
        return parts[0].to(device, torch.float32)
    return _product(parts[0], parts[1], parts[2] if len(parts) == 3 else None, device)


def _shape_of(parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Return the shape of the matrix of LoKr that `parts` are."""
    if len(parts) == 1:
        return tuple(parts[0].shape)
    if len(parts) == 2:
        return (parts[0].shape[0], *parts[1].shape[1:])
    return (parts[0].shape[1], parts[1].shape[1], *parts[2].shape[2:])
