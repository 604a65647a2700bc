"""Micro-batches on their way to the GPU while it computes the one before."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..carry import carry
from ..data.feed.batches import Batch

MOVED = ("pixels", "mean", "std", "text", "low_res")
"""What the network's inputs are made of on the device. All else of a batch is read on the host."""


class Ahead(Iterator[Batch]):
    """The micro-batches of a loader, on the device, in their order.

    1. `begin` takes the next one from the loader and queues its copy on a stream of its own, beside which the GPU goes
       on computing. It is called once the work of the present one is queued.
    2. `next` gives it, or takes and moves one if none was begun; the GPU waits for the copy, and the host does not.

    Where the device is no GPU, `begin` does nothing.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        """Take batches for `device` from a loader, which pins them where there is a GPU."""
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._begun: Batch | None = None

    def begin(self) -> None:
        """Take the next micro-batch and begin to move it, unless that is done already."""
        if self._stream is not None and self._begun is None:
            self._begun = self._move(next(self._batches))

    def __next__(self) -> Batch:
        if self._stream is None:
            return next(self._batches)
        self.begin()
        batch, self._begun = self._begun, None
        assert batch is not None

        # The memory belongs to the stream of the copies; until the present stream is done with it, it is not free.
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        for tensor in _tensors(batch):
            tensor.record_stream(present)
        return batch

    def _move(self, batch: Batch) -> Batch:
        """Return a batch with its tensors on the device, which may still be on their way."""
        moved: Any = dict(batch)
        with torch.cuda.stream(self._stream):
            for name in MOVED:
                if name in moved:
                    moved[name] = carry(moved[name], self._device)
        return moved  # type: ignore[no-any-return]  # a dict of the same keys


def _tensors(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch that are on the device."""
    return [batch[name] for name in MOVED if name in batch]
