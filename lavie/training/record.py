"""The record of a training step: its losses over all ranks, its rates, and what it cost."""

import math
from datetime import UTC, datetime
from typing import Any

import torch

from ..config.train import TrainConfig
from ..data.order.buckets import Buckets
from ..data.order.plan import DataPlan
from ..distributed import log, world_size
from .cost import device_name, forward_flops, peak_flops, peak_memory_gib
from .faults import OVERFLOW, SPIKES
from .update import Outcome, loss_scale

WARM_UP = 2
"""Steps after each start whose time is not that of the steps to come: kernels are compiled, memory is allocated, the
first batch is waited for, and the next step still finds some of that."""


def now() -> str:
    """Return the time as a record has it: UTC, in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Recorder:
    """Makes the records of a run's steps."""

    def __init__(self, config: TrainConfig, start: int, buckets: Buckets, plan: DataPlan, device: torch.device) -> None:
        """Count what a step of each size costs.

        Args:
            config: the run.
            start: how many of its steps are done.
            buckets: its sizes.
            plan: what it takes of its data.
            device: where this rank computes.
        """
        self._config, self._buckets, self._device = config, buckets, device
        self._measured_from = start + WARM_UP + 1
        self._warm: set[str] = set()  # sizes that have had a step
        # Backward costs twice the forward.
        self._flops = {size.name: 3 * forward_flops(config, size) for size in config.data.sizes}
        self._peak, self._device_name = peak_flops(device), device_name(device)

        # An epoch is as many clips as there are videos, or images where those alone are shown as clips.
        self._clips_per_step = plan.global_batch
        videos, moving = (
            sum(n for (k, _), n in plan.samples.items() if k == kind) for kind in ("videos", "moving images")
        )
        self._clips = videos or moving

    def record(self, step: int, engine: Any, outcome: Outcome, spikes: int) -> dict[str, Any]:
        """Return the record of a step, the same on all ranks but for what is said of one rank.

        The first WARM_UP steps of a start, and the first of each size, have None for their rates.

        Args:
            step: counted from 1.
            engine: DeepSpeed's, after the step.
            outcome: what the step did.
            spikes: how many spikes there were before it.
        """
        measured, seconds, config = outcome.measured, outcome.seconds, self._config
        scale = loss_scale(engine)
        if outcome.fault == OVERFLOW:
            log.warning(
                f"step {step}: the gradient is not finite, the weights stay as they are; the loss is scaled by "
                f"{scale:g} from here on"
            )

        # Rates are of the whole run, FLOPs and memory of this rank. The first step of each size compiles its kernels.
        samples = config.train_batch_size * config.gradient_accumulation_steps
        bucket = self._buckets.at(step - 1).name
        flops = self._flops[bucket] * samples / seconds
        measures = step >= self._measured_from and bucket in self._warm
        self._warm.add(bucket)
        record: dict[str, Any] = {
            "step": step,
            "time": now(),
            "epoch": round(step * self._clips_per_step / max(1, self._clips), 4),
            "loss": _finite(measured.loss),
            "loss_video": _finite(measured.loss_video),
            "loss_image": _finite(measured.loss_image),
            "grad_norm": _finite(measured.grad_norm),
            "lr": outcome.lr,
            "seconds": seconds,
            "samples_per_s": samples * world_size() / seconds if measures else None,
            "tflops": flops / 1e12 if measures else None,
            "mfu": flops / self._peak if measures and self._peak else None,
            "data_wait_s": outcome.waited,
            "dropped": measured.dropped,
            "skipped": engine.skipped_steps,
            "spikes": spikes + (outcome.fault in SPIKES),
            "memory": peak_memory_gib(self._device),
            "device": self._device_name,
        }
        if outcome.fault:
            record["fault"] = outcome.fault
        if scale:
            record["loss_scale"] = scale
        if config.data.buckets:
            record["bucket"] = bucket
        return record


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None
