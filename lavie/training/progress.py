"""How far a run is, for who watches it: a bar on a terminal, and lines with the time of day anywhere else."""

import time
from datetime import datetime
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config.train import TrainConfig
from ..console import TIME, make_console
from .journal import is_warm_up

SILENCE = 60.0
"""Seconds after which a line is printed at the next step, however many steps are left until logging_steps."""


class Display:
    """Shows the steps of a run while they are made.

    A terminal gets a bar with the values of the last step. Anything else, such as the log of a cluster's job, gets a
    line at the first step, the last, every logging_steps, and at least about every minute. Rates and the time left
    are of steps that did not warm up.
    """

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        """Begin the display of a run after `start_step` steps."""
        self._total, self._start, self._every = config.max_train_steps, start_step, config.logging_steps
        self._warm_from = start_step
        self._has_images = config.data.num_images > 0
        self._first = self._last_line = time.monotonic()
        self._steps, self._seconds, self._waited, self._samples = 0, 0.0, 0.0, 0.0

        console = make_console()
        self._has_bar = console.is_terminal and not console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task("train", total=self._total, completed=start_step, status="")
        self._bar.start()

    def show(self, record: dict[str, Any]) -> None:
        """Show the record of a training step."""
        step, now = record["step"], time.monotonic()
        warms_up = is_warm_up(record)
        if not warms_up:
            self._steps += 1
            self._seconds += record["seconds"]
            self._waited += record["data_wait_s"]
            self._samples += record["samples_per_s"] * record["seconds"]
        elif self._warm_from == step - 1:  # those at the start say nothing of the steps to come
            self._first, self._warm_from = now, step
        losses = f"loss {_number(record['loss'])}"
        if self._has_images:
            losses += f" (video {_number(record['loss_video'])}, images {_number(record['loss_image'])})"
        if self._has_bar:
            self._bar.update(self._task, completed=step, status=f"{losses}  {_rate(record['samples_per_s'])}")
            return

        due = step % self._every == 0 or now - self._last_line >= SILENCE
        if not due and step not in (self._start + 1, self._total):
            return
        # Rates are those of the steps since the last line, the time left that of all steps, saves and validations.
        told = f"step {step}/{self._total}  {losses}  lr {record['lr']:.2e}  "
        if self._steps:
            told += (
                f"{self._seconds / self._steps:.2f} s/step  {_rate(self._samples / self._seconds)}  "
                f"data wait {self._waited / self._seconds:.0%}"
            )
        else:
            told += f"{record['seconds']:.2f} s  {_rate(None)}"
        if step > self._warm_from:
            left = (now - self._first) / (step - self._warm_from) * (self._total - step)
            told += f"  {duration(left)} left"
        self.note(told)
        self._last_line, self._steps, self._seconds, self._waited, self._samples = now, 0, 0.0, 0.0, 0.0

    def note(self, text: str) -> None:
        """Show a line of text, which has its time of day where there is no terminal."""
        if self._has_bar:
            self._bar.console.print(text)
        else:
            print(f"{datetime.now():{TIME}} {text}", flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.stop()


def _number(loss: float | None) -> str:
    """Return a loss as it is shown; a record has None in place of one that is not finite."""
    return "not finite" if loss is None else f"{loss:.4f}"


def _rate(samples_per_s: float | None) -> str:
    """Return a rate as it is shown; a step that warms up has none."""
    return "warming up" if samples_per_s is None else f"{samples_per_s:.1f} samples/s"


def duration(seconds: float) -> str:
    """Return a time in its two largest units, as "2 d 3 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
