"""The bytes of tensors that a computation makes live at once: counted on the meta device, without memory."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30

Change = TypeVar("Change")


def fewest(changes: Sequence[Change], fits: Callable[[list[Change]], bool]) -> list[Change]:
    """Return the changes with which something fits into memory; empty if none suffice.

    1. Changes are added one by one, in their order, until it fits.
    2. Then each of them without which it still fits is dropped.
    """
    for count in range(1, len(changes) + 1):
        chosen = list(changes[:count])
        if fits(chosen):
            for change in changes[: count - 1]:
                fewer = [other for other in chosen if other is not change]
                chosen = fewer if fits(fewer) else chosen
            return chosen
    return []


def live_bytes(run: Callable[[], Any], *, gradients: bool = False) -> int:
    """Return the most bytes that `run` makes live at once, on tensors of the meta device.

    Args:
        run: the computation; what exists before it does not count.
        gradients: whether it runs with gradients, its backward pass included.
    """
    with torch.set_grad_enabled(gradients), fused_attention(), LiveBytes() as counter:
        run()
    return counter.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make in its block, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages that are new in its results: views and in-place results are not."""
        result = func(*args, **(kwargs or {}))
        given = {_storage(x)._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = _storage(x)
                if storage._cdata not in self.seen and storage._cdata not in given:
                    self.seen.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return result

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


NOTHING_MOVED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
"""Operations that read and write no element, though they are no views by their schema."""


def moves_nothing(func: Any) -> bool:
    """Return whether an operation only gives its input another shape, or makes a tensor without values."""
    return func.is_view or func.overloadpacket.__name__ in NOTHING_MOVED


Attended = Callable[[Tensor, Tensor, Tensor, bool], None]
"""Hears of a call of attention: query, key, value, and whether it is the backward pass."""


@contextmanager
def fused_attention(heard: Attended = lambda query, key, value, backward: None) -> Iterator[None]:
    """Make attention keep no scores: on the meta device PyTorch would choose the kernel that keeps them.

    The function is replaced, for a mode would not reach what gradient checkpointing computes again.

    Args:
        heard: hears of every call, for such a call has no products that a counter of operations could see.
    """
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_args, **_kwargs: _Attention.apply(
        query, key, value, heard
    )
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


class _Attention(torch.autograd.Function):
    """What a fused attention allocates: its output, for the backward pass a number per query, and the gradients."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heard: Attended) -> Tensor:
        """Return an output without values, and keep what the backward pass of a fused kernel reads."""
        heard(query, key, value, False)
        ctx.heard = heard
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return gradients without values."""
        inputs = ctx.saved_tensors[:3]
        ctx.heard(*inputs, True)
        return *(torch.empty_like(x) for x in inputs), None


def _storage(x: Tensor) -> Any:
    """Return the memory behind a tensor, which its views share."""
    return x.untyped_storage()
