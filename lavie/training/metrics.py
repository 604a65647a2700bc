"""What a run writes of itself: metrics.jsonl, TensorBoard, and what is shown on the screen. Rank 0 only."""

import json
import os
from pathlib import Path
from typing import Any

from ..config.train import TrainConfig
from ..files import replacing
from ..run_folder import METRICS
from .progress import Display

VALIDATION_PARTS = {"video": "validation_loss_video", "images": "validation_loss_image"}
"""The keys of the validation loss's parts, by what the screen calls them."""


class Metrics:
    """The records of a run, one a step: in output_dir/metrics.jsonl, in TensorBoard, and on the screen.

    A resumed run appends to its files.

    Attributes:
        path: metrics.jsonl.
    """

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        """Open the files of `config`, without the records after `start_step`, and begin the display there."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(config.output_dir) / METRICS
        self._drop_after(start_step)
        self._file = self.path.open("a")
        self._writer = SummaryWriter(str(Path(config.output_dir) / "tensorboard"), purge_step=start_step + 1)
        self._display, self._total = Display(config, start_step), config.max_train_steps

    def log(self, record: dict[str, Any]) -> None:
        """Write a record, and show its training loss or its validation loss.

        Args:
            record: "step", counted from 1, and numbers, text or None by name. TensorBoard takes the numbers.
        """
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["step"])
        if "loss" in record:
            self._display.show(record)
        if "validation_loss" in record:
            parts = [f"{part} {record[key]:.4f}" for part, key in VALIDATION_PARTS.items() if key in record]
            losses = f"validation loss {record['validation_loss']:.4f}" + (f" ({', '.join(parts)})" if parts else "")
            self._display.note(f"step {record['step']}/{self._total}  {losses}")

    def close(self) -> None:
        """Flush everything and give the screen back."""
        self._display.close()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _drop_after(self, step: int) -> None:
        """Remove the records of the steps after `step`: a resumed run writes them again."""
        if not self.path.exists():
            return
        *lines, _ = self.path.read_text().split("\n")  # the last piece is empty, or a line cut short by a crash
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with replacing(self.path) as partial:  # a job that ends here keeps its records
            partial.write_text("".join(line + "\n" for line in kept))
