"""Runs into which faults are put at given steps and ranks, and the runs that leave these steps out by hand."""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lavie.config.train import TrainConfig
from lavie.errors import TrainingError
from tests.training.runs import MODEL

SMALL = {
    "model": MODEL | {"block_out_channels": (16,), "cross_attention": (True,)},
    "data": {"num_images": 1, "num_frames": 2, "height": 16, "width": 16},
    "train_batch_size": 1,
    "max_train_steps": 5,
    "checkpointing_steps": 100,
    "report_to": (),
}
"""What `make_config` is to change for a run that is smaller still."""


class _Spoilt(torch.autograd.Function):
    """Pass a loss on, and send NaN back."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


SPOIL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "loss": lambda loss: loss * math.nan,
    "infinite loss": lambda loss: loss.detach() * math.inf + (loss - loss.detach()),
    "gradient": _Spoilt.apply,
    "large": lambda loss: loss * 1000,
}
"""What becomes of a loss. The gradient of the infinite one is finite."""


def run(
    config: TrainConfig, settings: Path, faults: dict[tuple[int, int, int], str], by_hand: bool = False
) -> dict[str, Any]:
    """Train with faults on this rank, and return what is left of the run.

    Args:
        config: the run.
        settings: the file of DeepSpeed's settings.
        faults: of SPOIL, by step, rank and micro-batch; steps from 1, the others from 0.
        by_hand: leave all steps of `faults` out instead: their batches are taken, and nothing is computed.

    Returns:
        "state": a hash of this rank's weights, moments and averages; "records", "log" and "error", "" without one.
    """
    from lavie.distributed import rank
    from lavie.training import trainer as module

    class Faulty(module.Trainer):
        def _step(self, step: int) -> module.Outcome:
            if by_hand and step in {of_step for of_step, _, _ in faults}:
                for _ in range(config.gradient_accumulation_steps):
                    next(self.batches)
                self.engine.skipped_steps += 1
                return module.Outcome(0.0, Measured(math.nan, math.nan, math.nan, 0, math.nan), "loss", 1.0, 0.0)
            calls = iter(range(config.gradient_accumulation_steps))

            def loss(network: Any, inputs: Any) -> Any:
                whole = type(self.objective).loss(self.objective, network, inputs)
                kind = faults.get((step, rank(), next(calls)))
                return whole._replace(total=SPOIL[kind](whole.total)) if kind else whole

            self.objective.loss = loss
            return super()._step(step)

    from lavie.training.update import Measured

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("lavie").addHandler(handler)
    error = ""
    with Faulty(config, settings) as trainer:
        try:
            trainer.fit()
        except TrainingError as raised:
            error = str(raised)
        state = digest([trainer.ema.shadow, *map(weight_and_moments, trainer.ema.parameters.values())])
    logging.getLogger("lavie").removeHandler(handler)
    path = Path(config.output_dir) / "metrics.jsonl"
    found = [json.loads(line, parse_constant=_refuse) for line in path.read_text().splitlines()]
    return {
        "state": state,
        "records": found,
        "log": [line for line in lines if line.startswith("step")],
        "error": error,
    }


def weight_and_moments(parameter: Any) -> list[torch.Tensor]:
    """Return what this rank holds of a parameter, of its float32 master, and of its two moments: no padding."""
    from lavie.training.partition import local_slice

    held = [parameter.detach(), local_slice(parameter).values]
    for name in ("exp_avg", "exp_avg_sq"):
        if hasattr(parameter, "ds_id"):
            from deepspeed.utils import safe_get_local_optimizer_state

            held.append(safe_get_local_optimizer_state(parameter, name).flatten()[: held[1].numel()])
        elif getattr(parameter, "_hp_mapping", None):
            held.append(parameter._hp_mapping.get_optim_state_fragment(name))
    return held


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def digest(value: Any) -> str:
    """Return a hash of all tensors and numbers in nested lists and dicts, in their order."""
    hashed = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key in part:
                hashed.update(str(key).encode())
                add(part[key])
        elif isinstance(part, (list, tuple)):
            for one in part:
                add(one)
        elif isinstance(part, torch.Tensor):
            hashed.update(part.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, (int, float)):
            hashed.update(repr(part).encode())

    add(value)
    return hashed.hexdigest()
