"""What a run says of itself: metrics.jsonl, TensorBoard, and progress on the screen. Rank 0 only."""

import json
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config.train import TrainConfig
from ..console import make_console
from ..files import replacing
from ..run_folder import METRICS

PLAIN_LINES = 20
"""How many lines of progress a run prints, about, where there is no terminal for a bar."""


class Metrics:
    """The records of a run, one a step: in output_dir/metrics.jsonl, in TensorBoard, and on the screen.

    A terminal gets a bar, anything else plain lines. A resumed run appends to its files.

    Attributes:
        path: metrics.jsonl.
    """

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        """Open the files of `config`, without the records after `start_step`, and begin the bar there."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(config.output_dir) / METRICS
        self._drop_after(start_step)
        self._file = self.path.open("a")
        self._writer = SummaryWriter(str(Path(config.output_dir) / "tensorboard"), purge_step=start_step + 1)
        self._total, self._start = config.max_train_steps, start_step
        self._every = max(1, config.max_train_steps // PLAIN_LINES)

        console = make_console()
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=self._total, completed=start_step, status="")
        self._progress.start()

    def log(self, record: dict[str, Any]) -> None:
        """Write a record, and show it if it has a training loss.

        Args:
            record: "step", counted from 1, and numbers, text or None by name. TensorBoard takes the numbers.
        """
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["step"])
        if "loss" in record:
            self._show(record)

    def close(self) -> None:
        """Flush everything and give the screen back."""
        self._progress.stop()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _show(self, record: dict[str, Any]) -> None:
        """Move the bar to a record's step, or print a line at the first step, the last, and every so often between."""
        step = record["step"]
        losses = f"loss {record['loss']:.4f} (video {record['loss_video']:.4f}, images {record['loss_image']:.4f})"
        status = f"{losses}  {record['samples_per_s']:.1f} samples/s"
        self._progress.update(self._task, completed=step, status=status)
        has_bar = self._progress.console.is_terminal
        if not has_bar and (step % self._every == 0 or step in (self._start + 1, self._total)):
            print(f"step {step}/{self._total}  {status}", flush=True)

    def _drop_after(self, step: int) -> None:
        """Remove the records of the steps after `step`: a resumed run writes them again."""
        if not self.path.exists():
            return
        *lines, _ = self.path.read_text().split("\n")  # the last piece is empty, or a line cut short by a crash
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with replacing(self.path) as partial:  # a job that ends here keeps its records
            partial.write_text("".join(line + "\n" for line in kept))
