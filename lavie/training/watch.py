"""The watch over a run's steps: bad ones are left out and named, and too many in a row end the run."""

from pathlib import Path
from typing import Any

from ..config.train import TrainConfig
from ..distributed import broadcast_object, is_main, log
from ..errors import TrainingError
from ..run_folder import METRICS, checkpoints, step_of
from .blame import NAMED, Blame, blame, excluding, shown, told
from .faults import GRADIENT, LOSS, OVERFLOW, SPIKE, Faults
from .gradient import spoilt_module
from .journal import read_records
from .update import Measured, MicroBatch


class Watch:
    """Judges the steps of a run before they move the weights.

    Attributes:
        faults: what the records tell so far.
    """

    def __init__(self, config: TrainConfig, start: int) -> None:
        """Begin after the first `start` steps, of which metrics.jsonl has the records. Collective."""
        self._config = config
        # Rank 0 reads for all: a shared disk may show each rank something else.
        self.faults: Faults = broadcast_object(Faults(config, _records(config, start)) if is_main() else None)
        self._blamed: list[set[str]] = []

    @property
    def doubts(self) -> bool:
        """Whether the last step was left out. Weights that give such steps may be no good, and are not saved yet."""
        return bool(self.faults.row)

    def check(self, step: int, engine: Any, measured: Measured, micro_batches: list[MicroBatch]) -> str | None:
        """Return what is wrong with a step, of lavie.training.faults, and say it; None if nothing is. Collective.

        Args:
            step: counted from 1.
            engine: DeepSpeed's, after the last backward pass and before the update.
            measured: what is known of the step over all ranks.
            micro_batches: those of this rank.
        """
        scaled = engine.fp16_enabled() and engine.dynamic_loss_scale()
        fault = self.faults.judge(measured, scaled=scaled)
        if fault is None or fault == OVERFLOW:
            return fault
        found = blame(fault, micro_batches)
        module = spoilt_module(engine) if fault == GRADIENT else None
        log.warning(f"step {step}: {self._what(fault, measured, module)}. {self._which(step, found)}")
        self._blamed = [*self._blamed[: len(self.faults.row)], set(found.keys)]
        return fault

    def follow(self, record: dict[str, Any]) -> None:
        """Take the record of a step.

        Raises:
            TrainingError: it is the last of max_skipped_steps in a row that were left out.
        """
        self.faults.follow(record)
        row, most = self.faults.row, self._config.max_skipped_steps
        if len(row) < most:
            return
        good = [folder for folder in checkpoints(self._config.output_dir) if step_of(folder) < row[0]]
        where = (
            f"the last good checkpoint is {good[-1]}" if good else f"there is no checkpoint from before step {row[0]}"
        )
        always = sorted(set.intersection(*self._blamed))[:NAMED] if self._blamed else []
        advice = (
            f"these samples were in all of them: {excluding(always, self._config.data)} leaves them out"
            if always
            else ("no sample was in all of them, so the weights may have diverged: lower learning_rate")
        )
        raise TrainingError(
            f"step {row[-1]}: the last {len(row)} steps were left out (max_skipped_steps), from step {row[0]} on, as "
            f"the loss or the gradient was not finite or too large: {where}; {advice}"
        )

    def _what(self, fault: str, measured: Measured, module: str | None) -> str:
        """Return what is wrong with a step and what is done, as the message begins."""
        if fault == LOSS:
            parts = f"video {shown(measured.loss_video)}, images {shown(measured.loss_image)}"
            return f"the loss is not finite ({parts}), the weights stay as they are"
        if fault == GRADIENT:
            place = f" from {module} on" if module else ""
            return f"the gradient is not finite{place}, the weights stay as they are"
        values = []
        for name, what in (("loss", "the loss"), ("grad_norm", "the norm of the gradient")):
            values.append(f"{what} is {getattr(measured, name):.4g} (usual {self.faults.usual(name):.4g})")
        limit = self._config.max_grad_norm
        clipped = f"clipped to max_grad_norm {limit:g}" if limit else "not clipped, as max_grad_norm is 0"
        done = f"the update is made, {clipped}" if fault == SPIKE else "the weights stay as they are (skip_spikes)"
        return f"a spike: {', '.join(values)}; {done}"

    def _which(self, step: int, found: Blame) -> str:
        """Return which samples are to blame for a step and how to leave them out, as the message ends."""
        text = f"To blame: {told(found.suspects)}. "
        if found.certain and len(found.keys) <= NAMED:
            return f"{text}To leave out what comes again: {excluding(found.keys, self._config.data)}"
        return f"{text}Not all of these need be at fault: --replay {step} tells which, for data.exclude"


def _records(config: TrainConfig, start: int) -> list[dict[str, Any]]:
    """Return the records of the first `start` steps in a run's metrics.jsonl."""
    path = Path(config.output_dir) / METRICS
    if not start or not path.exists():
        return []
    return [record for record in read_records(path) if record["step"] <= start]
