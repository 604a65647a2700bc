"""The record of a training step: its losses over all ranks, its rates, and what it cost."""

import math
from datetime import UTC, datetime
from typing import Any

import torch

from ..config.train import TrainConfig
from ..data.order.buckets import Buckets
from ..data.order.plan import DataPlan
from ..distributed import log, sum_over_ranks, world_size
from ..errors import TrainingError
from .cost import device_name, forward_flops, peak_flops, peak_memory_gib
from .update import Outcome, loss_scale


def now() -> str:
    """Return the time as a record has it: UTC, in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Recorder:
    """Makes the records of a run's steps."""

    def __init__(self, config: TrainConfig, buckets: Buckets, plan: DataPlan, device: torch.device) -> None:
        """Count what a step of each size costs.

        Args:
            config: the run.
            buckets: its sizes.
            plan: what it takes of its data.
            device: where this rank computes.
        """
        self._config, self._buckets, self._device = config, buckets, device
        # Backward costs twice the forward.
        self._flops = {size.name: 3 * forward_flops(config, size) for size in config.data.sizes}
        self._peak, self._device_name = peak_flops(device), device_name(device)

        # An epoch is as many clips as there are videos, or images where those alone are shown as clips.
        self._clips_per_step = plan.global_batch
        videos, moving = (
            sum(n for (k, _), n in plan.samples.items() if k == kind) for kind in ("videos", "moving images")
        )
        self._clips = videos or moving

    def record(self, step: int, engine: Any, outcome: Outcome) -> dict[str, Any]:
        """Return the record of a step, the same on all ranks but for what is said of one rank. Collective.

        Args:
            step: counted from 1.
            engine: DeepSpeed's, after the step.
            outcome: what the step did on this rank.

        Raises:
            TrainingError: the loss is not finite, on any rank.
        """
        update, losses, seconds = outcome.update, outcome.losses, outcome.seconds
        sums = torch.stack([torch.stack(loss) for loss in losses]).detach().double().sum(0)
        sums = torch.cat([sums, sums.new_tensor([outcome.dropped])])
        *totals, dropped = sum_over_ranks(sums).tolist()
        total, video, image = (value / (world_size() * len(losses)) for value in totals)
        config = self._config
        if not math.isfinite(total):
            overflow = ", mixed_precision is fp16 and may overflow" if engine.fp16_enabled() else ""
            raise TrainingError(
                f"step {step}: the loss is {total} (video {video}, images {image}{overflow}): lower learning_rate, or "
                f"resume from an earlier checkpoint of {config.output_dir}"
            )
        scale = loss_scale(engine)
        if not update.applied:
            reason = f"; the loss is scaled by {scale:g} from here on" if scale else ""
            log.warning(f"step {step}: the gradient is not finite, the weights stay as they are{reason}")

        # Rates are of the whole run, FLOPs and memory of this rank.
        samples = config.train_batch_size * config.gradient_accumulation_steps
        bucket = self._buckets.at(step - 1).name
        flops = self._flops[bucket] * samples / seconds
        record: dict[str, Any] = {
            "step": step,
            "time": now(),
            "epoch": round(step * self._clips_per_step / max(1, self._clips), 4),
            "loss": total,
            "loss_video": video,
            "loss_image": image,
            "grad_norm": update.grad_norm,
            "lr": outcome.lr,
            "seconds": seconds,
            "samples_per_s": samples * world_size() / seconds,
            "tflops": flops / 1e12,
            "mfu": flops / self._peak if self._peak else None,
            "data_wait_s": outcome.waited,
            "dropped": round(dropped),
            "skipped": engine.skipped_steps,
            "memory": peak_memory_gib(self._device),
            "device": self._device_name,
        }
        if scale:
            record["loss_scale"] = scale
        if config.data.buckets:
            record["bucket"] = bucket
        return record
