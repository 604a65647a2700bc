"""What the ranks of a run send to one another: the bytes of each kind of collective, counted as it is called."""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lavie.config.train import TrainConfig

LARGE = 64
"""Elements from which on a collective counts: below are losses, norms and flags."""


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


KINDS = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor")
OTHERS = ("all_gather", "reduce", "broadcast", "reduce_scatter", "all_to_all_single")


class Counted:
    """Wraps torch.distributed's collectives; `payload` has the bytes, `calls` the number, by kind."""

    def __init__(self) -> None:
        self.payload: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        for name in (*KINDS, *OTHERS):
            setattr(dist, name, self._counting(name, getattr(dist, name)))

    def _counting(self, name: str, function: Any) -> Any:
        parameters = list(inspect.signature(function).parameters)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(parameters, args, strict=False)) | kwargs
            tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
            whole = max(tensors, key=lambda tensor: tensor.numel(), default=None)
            if whole is not None and whole.numel() >= LARGE:
                self.calls[name] += 1
                self.payload[name] += _bytes(whole)
            return function(*args, **kwargs)

        return call


def sent(config: TrainConfig, settings: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Train a run on this rank; return the bytes and the number of collectives of its last step, by kind."""
    counted = Counted()
    from lavie.training.trainer import Trainer

    with Trainer(config, settings) as trainer:
        step = trainer._step

        def last(number: int) -> Any:
            if number == config.max_train_steps:
                counted.payload.clear()
                counted.calls.clear()
            outcome = step(number)
            if number == config.max_train_steps:
                trainer.counted = dict(counted.payload), dict(counted.calls)
            return outcome

        trainer._step = last
        trainer.saver.save = lambda step: None
        trainer.fit()
        return trainer.counted
