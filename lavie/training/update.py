"""One update of the weights: its learning rate, the norm of its gradient, and whether it was made at all."""

import math
from typing import Any, NamedTuple

import torch

from ..config.train import TrainConfig
from ..diffusion.loss import JointLoss
from ..errors import TrainingError
from .optim import learning_rate


class Update(NamedTuple):
    """What became of a step's gradient."""

    grad_norm: float | None
    """The norm of the whole gradient over all ranks, before clipping; None where the update was skipped."""
    applied: bool
    """Whether the weights were updated. An update is skipped where the gradient is not finite."""


class Outcome(NamedTuple):
    """What a training step did on this rank."""

    lr: float
    """The learning rate of its update."""
    update: Update
    losses: list[JointLoss]
    """The losses of its micro-batches."""
    dropped: int
    """How many of its samples were replaced by spares."""
    seconds: float
    """How long it took."""
    waited: float
    """How many of `seconds` it waited for data."""


def set_learning_rate(engine: Any, config: TrainConfig, step: int) -> float:
    """Give the optimizer the learning rate of a step, counted from 1, and return it.

    The schedule counts updates: it waits where one was skipped, as at the start of a run in fp16.
    """
    rate = learning_rate(config, step - 1 - engine.skipped_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    return rate


def backward_and_step(engine: Any, loss: torch.Tensor) -> Update | None:
    """Add the gradient of a micro-batch's loss to the step's, and update the weights after the step's last one.

    Args:
        engine: DeepSpeed's, as `build_engine` returns it.
        loss: a scalar.

    Returns:
        What became of the update; None before the last micro-batch.

    Raises:
        TrainingError: the scale of the loss has fallen to its minimum, and gradients still overflow in fp16.
    """
    engine.backward(loss)
    last = engine.is_gradient_accumulation_boundary()

    # Without ZeRO in float32 the optimizer is PyTorch's own, where nothing else looks at the gradient. It is the sum
    # over the ranks, so all of them skip the same updates.
    optimizer: Any = engine.optimizer
    plain = isinstance(optimizer, torch.optim.Optimizer)
    if last and plain:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            engine.step()
            return Update(norm, True)
        optimizer.step = lambda: None  # the engine's own counts go on
        engine.step()
        del optimizer.step
        engine.skipped_steps += 1
        return Update(None, False)

    try:
        engine.step()
    except Exception as error:  # DeepSpeed raises no kind of its own
        if "minimum" not in str(error):
            raise
        raise TrainingError(
            "the gradient overflows in fp16 at the smallest scale of the loss: the weights may have diverged. Lower "
            "learning_rate, or set mixed_precision to bf16 or no"
        ) from None
    if not last:
        return None
    applied = bool(engine.was_step_applied())
    return Update(float(engine.get_global_grad_norm()) if applied else None, applied)


def loss_scale(engine: Any) -> float | None:
    """Return the factor by which DeepSpeed scales the loss in fp16 so that small gradients survive; None elsewhere."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else None
