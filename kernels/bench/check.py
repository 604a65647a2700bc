"""The check that a way computes what the definition does: output and gradients, against the definition in float32."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...testing import TOLERANCES
from ..cost import Cost

OF_PLAIN, OF_PLAIN_EACH = 1.5, 4.0
"""How many times plain PyTorch's own error in a dtype passes: of the output and of all gradients as one vector; and of
a single gradient, whose rounding errors average less. Some nearly cancel: there plain bfloat16 is off by a fifth."""


@dataclass(frozen=True)
class Way:
    """One way to compute a case."""

    function: Callable[..., Tensor]
    """Computes the case from its leaves."""
    compiled: bool = False
    """Whether it goes through torch.compile, for one shape."""
    orders: tuple[tuple[int, ...] | None, ...] = ()
    """For each of the first leaves the order in which its dimensions lie in memory, outermost first, or None for the
    case's own."""

    def ready(self, dry: bool) -> Callable[..., Tensor]:
        """Return the function to call; in a dry run, torch.compile only traces."""
        if not self.compiled:
            return self.function
        return torch.compile(self.function, dynamic=False, backend="aot_eager" if dry else "inductor")

    def lay(self, leaves: list[Tensor]) -> list[Tensor]:
        """Return the leaves as this way has them: copies of those that lie in another order."""
        orders = (*self.orders, *(None for _ in leaves[len(self.orders) :]))
        return [x if order is None else _lie(x, order) for x, order in zip(leaves, orders, strict=True)]


def _lie(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return a copy of x whose dimensions lie in memory in `order`, outermost first."""
    inverse = [order.index(i) for i in range(len(order))]
    return x.detach().permute(order).contiguous().permute(inverse).requires_grad_(x.requires_grad)


@dataclass(frozen=True)
class Case:
    """One shape of an operation, and the ways to compute it."""

    name: str
    make: Callable[[torch.device, torch.dtype], list[Tensor]]
    """Fresh random leaves, requires_grad where a gradient is wanted."""
    ways: dict[str, Way]
    """Ours first."""
    reference: Callable[..., Tensor]
    """The definition in plain PyTorch, whatever the device, of the leaves."""
    cost: Cost
    """Floors for elements of two bytes."""
    roundings: int = 1
    """How many operations deep it is: the tolerance of one grows with the square root."""


@dataclass(frozen=True)
class Errors:
    """Relative L2 errors of a way."""

    output: float
    """The error of the output."""
    gradients: float
    """The error of all gradients as one vector."""
    by_gradient: tuple[float, ...]
    """The error of every gradient alone."""

    @property
    def worst(self) -> float:
        """The larger of the errors of output and gradients."""
        return max(self.output, self.gradients)


class Checker:
    """Compares the ways of a case with its definition in float32, which is computed once and kept on the CPU."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype):
        self.case, self.device, self.dtype = case, device, dtype
        self.tolerance = TOLERANCES[dtype] * case.roundings**0.5
        plain = Way(case.reference)
        self.expected = [t.cpu() for t in self._results(plain, case.reference, [_widen(t) for t in self._leaves()])]
        self.plain = self._errors(plain, case.reference)

    def errors(self, way: Way, function: Callable[..., Tensor], each: bool = True) -> Errors:
        """Return the errors of a way; `function` is what its `ready` returned.

        Args:
            each: look at each gradient alone too, for a wrong one can be lost in the norm of all. Not for rivals: a
                textbook softmax in bfloat16 is right, and six times as far off as ours where a gradient nearly cancels.

        Raises:
            WrongResult: the way is not right.
        """
        # Plain PyTorch's own errors in the dtype say how much rounding excuses.
        errors, plain = self._errors(way, function), self.plain
        compared = [
            ("output", errors.output, OF_PLAIN * plain.output),
            ("all gradients", errors.gradients, OF_PLAIN * plain.gradients),
        ]
        if each:
            for i, (error, of_plain) in enumerate(zip(errors.by_gradient, plain.by_gradient, strict=True)):
                compared.append((f"gradient {i + 1} of {len(plain.by_gradient)}", error, OF_PLAIN_EACH * of_plain))

        faults = [
            f"{name} off by {error:.1e}, limit {max(self.tolerance, limit):.1e}"
            for name, error, limit in compared
            if not error <= max(self.tolerance, limit)  # and so a NaN
        ]
        if faults:
            more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise WrongResult(f"{'; '.join(faults[:3])}{more}")
        return errors

    def _leaves(self) -> list[Tensor]:
        """Make the same random leaves every time."""
        torch.manual_seed(0)
        return self.case.make(self.device, self.dtype)

    def _results(self, way: Way, function: Callable[..., Tensor], leaves: list[Tensor]) -> Iterator[Tensor]:
        """Yield the output, and the gradient of each leaf that wants one, for a fixed gradient of the output."""
        y = function(*leaves)
        torch.manual_seed(1)
        dy = torch.randn(y.shape, device=self.device).to(self.dtype).to(y.dtype)
        yield y.detach()
        yield from torch.autograd.grad(y, [t for t in leaves if t.requires_grad], dy)

    def _errors(self, way: Way, function: Callable[..., Tensor]) -> Errors:
        """Return the errors of a way against the expected results, which come to the device one at a time."""
        results = self._results(way, function, way.lay(self._leaves()))
        # The norms of the difference from each expected result, and of that result.
        norms = [
            (_norm(a.float() - e), _norm(e))
            for a, e in ((a, e.to(self.device)) for a, e in zip(results, self.expected, strict=True))
        ]
        return Errors(_ratio(norms[:1]), _ratio(norms[1:]), tuple(_ratio([pair]) for pair in norms[1:]))


class WrongResult(Exception):
    """A way does not compute what the definition does."""


def _widen(tensor: Tensor) -> Any:
    """Return a tensor in float32, with or without a gradient as before; integers stay."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().float().requires_grad_(tensor.requires_grad)


def _norm(x: Tensor) -> float:
    """Return the L2 norm, summed in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _ratio(norms: list[tuple[float, float]]) -> float:
    """Return the relative error of vectors put one behind the other, from (norm of the difference, norm) of each."""
    differences, sizes = (sum(x * x for x in column) ** 0.5 for column in zip(*norms, strict=True))
    return differences / max(sizes, 1e-300)
