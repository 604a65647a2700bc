"""What a run tells of itself: in metrics.jsonl, on the screen, and where report_to sends it. Rank 0 only."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.train import TrainConfig
from ..data.order.plan import DataPlan
from ..distributed import log
from ..run_folder import METRICS, PROMPTS, samples_folder
from .account import EVENTS, Account
from .journal import DROPPED, append, cut_back
from .origin import facts
from .progress import Display
from .writers import Writer, open_writers, samples_in

VALIDATION_PARTS = {"video": "validation_loss_video", "images": "validation_loss_image"}
"""The keys of the validation loss's parts, by what the screen calls them."""

MEASURED = "eval_"
"""How the keys begin of what is measured of samples."""


class Metrics:
    """The records of a run, one a step: in output_dir/metrics.jsonl, on the screen, and in the writers of report_to.

    A resumed run appends to its files.

    Attributes:
        path: metrics.jsonl.
        looked: whether the validation and the measurement of the step from which the run goes on are complete. Those of
            a step that is not in this file belong to another run.
    """

    def __init__(self, config: TrainConfig, start_step: int, plan: DataPlan) -> None:
        """Open the files of `config`, without the lines of steps after `start_step`, and begin the display there.

        Args:
            config: the run.
            start_step: the step that it goes on from.
            plan: what it takes of its data.
        """
        self.path = Path(config.output_dir) / METRICS
        records = cut_back(self.path, start_step)
        self.looked = _looked(config, start_step, [record for record in records if record["step"] == start_step])
        self._account = Account(config.output_dir, start_step, records)
        append(self.path.with_name(EVENTS), {"event": "facts", "step": start_step, **facts(plan)})
        for path in self.path.parent.glob(DROPPED.format("*")):
            cut_back(path, start_step)
        self._file, self._full = self.path.open("a"), False
        self._writers = open_writers(config, start_step)
        self._display, self._total = Display(config, start_step), config.max_train_steps

    def log(self, record: dict[str, Any]) -> None:
        """Write a record, and show its training loss or its validation loss.

        Args:
            record: "step", counted from 1 (0 is before training), and numbers, text or None by name. Writers take the
                numbers.
        """
        if "loss" in record:
            record = {**record, "ettr": self._account.step(record)}
        self._write(record)
        numbers = {k: v for k, v in record.items() if k != "step" and isinstance(v, (int, float))}
        self._hand(lambda writer: writer.scalars(record["step"], numbers))
        if "loss" in record:
            self._display.show(record)
        if measured := {key: value for key, value in record.items() if key.startswith(MEASURED)}:
            told = ", ".join(f"{key.removeprefix(MEASURED)} {value:.4g}" for key, value in measured.items())
            self._display.note(f"step {record['step']}/{self._total}  samples: {told}")
        if "validation_loss" in record:
            parts = [f"{part} {record[key]:.4f}" for part, key in VALIDATION_PARTS.items() if key in record]
            losses = f"validation loss {record['validation_loss']:.4f}" + (f" ({', '.join(parts)})" if parts else "")
            self._display.note(f"step {record['step']}/{self._total}  {losses}")

    def _write(self, record: dict[str, Any]) -> None:
        """Write a record. What a full disk does not take now stays in memory, and is written with a later one."""
        self._file.write(json.dumps(record) + "\n")
        try:
            self._file.flush()
            self._full = False
        except OSError as error:
            if not self._full:
                log.error(f"{self.path} cannot be written ({error.strerror}): records wait in memory for room")
            self._full = True

    def show_samples(self, step: int, folder: Path) -> None:
        """Hand the samples that were drawn after a step to the writers."""
        samples = samples_in(folder)
        self._hand(lambda writer: writer.samples(step, samples))

    def _hand(self, give: Callable[[Writer], None]) -> None:
        """Hand something to every writer. One that fails is told no more: metrics.jsonl has it all."""
        for writer in tuple(self._writers):
            try:
                give(writer)
            except Exception as error:  # a full disk, or whatever a server and its package make of a lost connection
                self._writers.remove(writer)
                log.error(
                    f"report_to: {type(writer).__name__} has failed, and is told no more until the next start: {error}"
                )

    def close(self) -> None:
        """Flush everything, give the screen back, and tell what became of the run's time."""
        self._display.close()
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            log.error(f"{self.path} lacks its last records: {error.strerror}")
        for line in self._account.lines(self.path):
            log.info(line)
        self._hand(lambda writer: writer.close())  # last, as one that waits for a server may take long


def _looked(config: TrainConfig, step: int, records: list[dict[str, Any]]) -> tuple[bool, bool]:
    """Return whether a run's validation of a step and its measurement are complete, by the records of that step."""
    if not any("loss" in record for record in records):
        return True, True
    index = samples_folder(config.output_dir, step) / PROMPTS
    if config.data.validation:
        validated = any("validation_loss" in record for record in records)
    else:
        validated = not config.validation_prompts or index.is_file()
    return validated, any(name.startswith(MEASURED) for record in records for name in record)
