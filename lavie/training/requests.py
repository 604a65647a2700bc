"""What a run is asked for while it trains: by signals, by files in its folder, by the clock. Answered between steps.

1. A signal that one rank got (signals.py) asks to stop.
2. So does a file STOP in output_dir; SAVE and SAMPLE ask for a checkpoint and for the validation's samples of the step
   that is done. Rank 0 looks for them, and deletes them when that is done.
3. `save_every_minutes` asks for a checkpoint by the clock of rank 0.
"""

import math
import os
import socket
import time
from collections.abc import Sequence
from enum import Flag, auto
from pathlib import Path

import torch

from ..config.train import TrainConfig
from ..distributed import gather_objects, is_main, log, sum_over_ranks
from . import signals

LOOK_SECONDS = 1.0
"""Seconds between two looks at the folder, which a shared disk answers in milliseconds."""


class Asked(Flag):
    """What a run may be asked for; each is also the name of the file that asks for it."""

    STOP = auto()
    SAVE = auto()
    SAMPLE = auto()


NOTHING = Asked(0)
TOLD = {Asked.SAVE: "a checkpoint", Asked.SAMPLE: "a validation"}
"""What a file asks for, in words, where the run goes on."""


class Requests:
    """Hears what a run is asked for, with the same answer on all ranks."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Begin to hear: from here on SIGTERM is a request. Collective.

        Args:
            config: the run.
            device: where this rank computes.
        """
        self._folder, self._device = Path(config.output_dir), device
        self._seconds = math.inf if config.save_every_minutes is None else 60 * config.save_every_minutes
        self._saved = time.monotonic()
        self._looked = -math.inf
        self._files, self._told, self._stay = NOTHING, NOTHING, NOTHING
        """What files ask for that rank 0 has seen, which of them were told, and whose files could not be deleted: those
        are seen no more."""
        self._validates = bool(config.validation_prompts or config.data.validation)

        here, process = socket.gethostname(), os.getpid()
        signals.begin(pid for host, pid in gather_objects((here, process)) if host == here and pid != process)

    def wanted(self) -> list[float]:
        """Return what this rank is asked for: 1 or 0 for each of `Asked`. Summed over the ranks, all can hear it."""
        wanted = self._wanted()
        return [float(one in wanted) for one in Asked]

    def heard(self, step: int, counts: Sequence[float] = ()) -> Asked:
        """Return what any rank is asked for after a step, counted from 1. Collective without `counts`.

        A request to stop leaves no time for samples: those are drawn when the run goes on, by the file that stays.

        Args:
            step: the step that is done.
            counts: the sums of `wanted` over all ranks; if there are none, they are asked now.
        """
        if not counts:
            counts = sum_over_ranks(torch.tensor(self.wanted(), device=self._device)).tolist()
        asked = NOTHING
        for one, count in zip(Asked, counts, strict=True):
            asked |= one if count else NOTHING
        if Asked.STOP in asked:
            signals.ignore_termination()
            return asked & ~Asked.SAMPLE
        for one in asked & self._files & ~self._told:
            self._told |= one
            none = one is Asked.SAMPLE and not self._validates
            why = ", but there is none: no validation_prompts, no data.validation" if none else ""
            log.info(f"{self._folder / str(one.name)} asks for {TOLD[one]} after step {step}{why}")
        return asked

    def saved(self) -> None:
        """Let the time until the next checkpoint of save_every_minutes begin."""
        self._saved = time.monotonic()

    def served(self, asked: Asked) -> None:
        """Delete the files of requests that have been met, whoever asked."""
        self._files &= ~asked
        self._told &= ~asked
        for one in asked if is_main() else NOTHING:
            path = self._folder / str(one.name)
            try:
                if os.path.isfile(path):
                    path.unlink(missing_ok=True)
            except OSError as error:
                self._stay |= one
                log.warning(f"{path} cannot be deleted ({error.strerror}): it is heard no more until the next start")

    def _wanted(self) -> Asked:
        """Return what this rank is asked for."""
        wanted = Asked.STOP if signals.asked() else NOTHING
        if not is_main():
            return wanted
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            for one in ~self._stay:
                self._files |= one if os.path.isfile(self._folder / str(one.name)) else NOTHING
        by_clock = Asked.SAVE if now - self._saved >= self._seconds else NOTHING
        return wanted | self._files | by_clock
