"""One update of the weights: its learning rate, what is known before it is made, and whether it is made at all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..carry import carry
from ..config.train import TrainConfig
from ..diffusion.loss import JointLoss
from ..distributed import sum_over_ranks, world_size
from ..errors import TrainingError
from .gradient import given_norms, gradient_norms, throw_away, whole_norm
from .optim import learning_rate


class MicroBatch(NamedTuple):
    """What is kept of a micro-batch of B rows until its step is judged."""

    positions: list[int]
    """B global positions."""
    keys: list[list[str]]
    """B lists of keys: the clip's, then each image's."""
    dropped: int
    """How many samples were replaced by spares."""
    loss: JointLoss
    sample: Tensor
    """(B, C, F + N, h, w): what the network read. After the backward pass it has a gradient, row by row."""


class Measured(NamedTuple):
    """What is known of a step over all ranks, before its update; the same on all of them."""

    loss: float
    loss_video: float
    loss_image: float
    """The means over all micro-batches."""
    dropped: int
    """How many samples were replaced by spares."""
    grad_norm: float
    """The norm of the whole gradient, before clipping."""
    norms: tuple[float, ...] = ()
    """The norms that it is made of, as `gradient_norms` returns them."""
    asked: tuple[float, ...] = ()
    """How many ranks ask for each of `requests.Asked`, as of this moment of the step."""


class Outcome(NamedTuple):
    """What a training step did."""

    lr: float
    """The learning rate of its update."""
    measured: Measured
    fault: str | None
    """What was wrong with it, of `faults.Fault`; None if nothing was."""
    seconds: float
    """How long it took on this rank."""
    waited: float
    """How many of `seconds` this rank waited for data."""


def set_learning_rate(engine: Any, config: TrainConfig, step: int) -> float:
    """Give the optimizer the learning rate of a step, counted from 1, and return it.

    The schedule counts updates: it waits where one was skipped, as at the start of a run in fp16.
    """
    rate = learning_rate(config, step - 1 - engine.skipped_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    return rate


def backward(engine: Any, loss: Tensor) -> bool:
    """Add the gradient of a micro-batch's loss, a scalar, to the step's, and return whether it was the step's last."""
    engine.backward(loss)
    if engine.is_gradient_accumulation_boundary():
        return True
    engine.step()  # counts the micro-batch, no more
    return False


def measure_step(engine: Any, micro_batches: list[MicroBatch], wanted: Sequence[float] = ()) -> Measured:
    """Return what is known of a step once all its gradients are there. Collective.

    The host reads a tensor of a GPU here, and at no other place of a step: it waits once until all is computed.

    Args:
        engine: DeepSpeed's.
        micro_batches: those of this rank.
        wanted: what this rank asks for, as `requests.Requests.wanted` returns it.
    """
    losses = torch.stack([torch.stack(micro_batch.loss) for micro_batch in micro_batches]).detach().double()
    dropped = sum(micro_batch.dropped for micro_batch in micro_batches)
    of_host = carry(torch.tensor([dropped, *wanted], dtype=torch.float64), losses.device)

    # The norms are those of all ranks already. As parts of the sum they are the same on all of them even where one
    # reckons wrongly: they must not decide differently.
    norms = gradient_norms(engine).to(losses)
    sums = sum_over_ranks(torch.cat([losses.mean(0), of_host, norms])).tolist()
    means = [value / world_size() for value in sums]
    of_norms = tuple(means[len(means) - len(norms) :])
    asked = tuple(sums[4 : 4 + len(wanted)])
    loss, loss_video, loss_image = means[:3]
    norm = whole_norm(engine, of_norms)
    return Measured(loss, loss_video, loss_image, round(sums[3]), norm, of_norms, asked)


def update(engine: Any, norms: Sequence[float], *, skip: bool) -> bool:
    """Update the weights by the step's gradient, and return whether DeepSpeed did; with `skip`, drop the gradient.

    Args:
        engine: DeepSpeed's.
        norms: those of the step, as `gradient_norms` returns them: DeepSpeed clips by them.
        skip: whether the step is left out.

    Raises:
        TrainingError: the scale of the loss has fallen to its minimum, and gradients still overflow in fp16.
    """
    if skip:
        throw_away(engine)
        return False
    try:
        with given_norms(engine, norms):
            engine.step()
    except Exception as error:  # DeepSpeed raises no kind of its own
        if "minimum" not in str(error):
            raise
        raise TrainingError(
            "the gradient overflows in fp16 at the smallest scale of the loss: the weights may have diverged. Lower "
            "learning_rate, or set mixed_precision to bf16 or no"
        ) from None
    return bool(engine.was_step_applied())


def loss_scale(engine: Any) -> float | None:
    """Return the factor by which DeepSpeed scales the loss in fp16 so that small gradients survive; None elsewhere."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else None
