"""What a computation asks of a device: its operations by kind, FLOPs and bytes, counted on the meta device."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...models.live_bytes import LiveBytes, fused_attention, moves_nothing

BACKWARD_PRODUCTS = 5
"""Matrix products in the backward pass of a fused attention, where the forward pass has two: it computes the scores
again."""


class Operation(NamedTuple):
    """One kind of call."""

    kind: str
    """product (a matrix product or convolution), attention, or pointwise (all others)."""
    flops: int
    """Floating-point operations; a multiply-add is two. Those of pointwise operations do not count."""
    bytes: int
    """Bytes of the tensors that it reads and writes."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """What was counted of a computation."""

    peak: int
    """The most bytes of tensors that it made live at once."""
    operations: Counter[Operation]
    """How often each operation was called; views are none."""

    @property
    def flops(self) -> int:
        """Floating-point operations in all."""
        return sum(operation.flops * count for operation, count in self.operations.items())

    @property
    def launches(self) -> int:
        """Calls that a device has to be given one by one."""
        return self.operations.total()

    def seconds(self, product_rate: float, attention_rate: float, bandwidth: float) -> float:
        """Return the time in which each operation takes what limits it alone: products, or bytes.

        Args:
            product_rate, attention_rate: FLOP/s that matrix products and attention reach.
            bandwidth: bytes/s that other operations reach.
        """
        rates = {"product": product_rate, "attention": attention_rate, "pointwise": product_rate}
        total = 0.0
        for operation, count in self.operations.items():
            total += count * max(operation.flops / rates[operation.kind], operation.bytes / bandwidth)
        return total


def count_operations(run: Callable[[], Any], *, gradients: bool = False) -> Counted:
    """Return what `run` does to tensors of the meta device.

    Args:
        run: the computation; what exists before it does not count.
        gradients: whether it runs with gradients, its backward pass included.
    """
    counter = _Operations()
    with torch.set_grad_enabled(gradients), fused_attention(counter.attended), counter:
        run()
    return Counted(counter.peak, counter.operations)


class _Operations(LiveBytes):
    """Counts the operations in its block, and the bytes that live."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if moves_nothing(func):
            return result
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        moved = sum(x.numel() * x.element_size() for x in tensors)
        self.operations[Operation("product" if flops else "pointwise", flops, moved)] += 1
        return result

    def attended(self, query: Tensor, key: Tensor, value: Tensor, backward: bool) -> None:
        """Count a call of attention on (..., L, D): it reads query, key and value, and writes as much as a query."""
        rows = query.numel() // query.shape[-1]
        product = 2 * rows * key.shape[-2] * query.shape[-1]
        output = query.numel() * query.element_size()
        moved = 2 * output + sum(x.numel() * x.element_size() for x in (key, value))
        if backward:  # the gradient comes in, and three go out
            self.operations[Operation("attention", BACKWARD_PRODUCTS * product, 2 * moved)] += 1
        else:
            self.operations[Operation("attention", 2 * product, moved)] += 1
