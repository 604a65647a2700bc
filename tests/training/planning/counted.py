"""What the ranks of a run send to one another: the bytes of each kind of collective, counted as it is called."""

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


class Counted:
    """Wraps torch.distributed's collectives; `payload` has the bytes, `calls` the number, by kind."""

    WHOLE = {
        "all_reduce": lambda args, kwargs: args[0] if args else kwargs["tensor"],
        "all_gather_into_tensor": lambda args, kwargs: args[0] if args else kwargs["output_tensor"],
        "reduce_scatter_tensor": lambda args, kwargs: args[1] if len(args) > 1 else kwargs.get("input", kwargs.get("input_tensor")),
    }

    def __init__(self) -> None:
        self.payload: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_gather", "reduce", "broadcast",
                     "reduce_scatter", "all_to_all_single"):
            setattr(dist, name, self._counting(name, getattr(dist, name)))

    def _counting(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            whole = self.WHOLE.get(name, lambda args, kwargs: None)(args, kwargs)
            if whole is None or whole.numel() >= LARGE:
                self.calls[name] += 1
                self.payload[name] += 0 if whole is None else _bytes(whole)
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
