"""The recording of some steps by PyTorch's profiler, as the section `profile` of a run's config asks for it.

`output_dir/profile/` has for each recorded rank
    rank0.json.gz   the trace, for chrome://tracing or https://ui.perfetto.dev
    rank0.txt       where the time went: phases, copies, synchronisations, collectives, and the largest operations
    rank0.png       the same over time
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..config.train import TrainConfig
from ..distributed import log, rank
from .profile_report import PHASE, draw_timeline, profile_text, timed_events

FOLDER = "profile"
"""The folder in output_dir."""


class StepProfiler:
    """Records the steps of a run that its config names, on this rank; does nothing in other steps."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Record nothing yet."""
        self._wanted, self._folder = config.profile, Path(config.output_dir) / FOLDER
        self._mine = config.profile.steps > 0 and (config.profile.ranks == "all" or rank() == 0)
        self._device = device
        self._profile: Any = None
        """PyTorch's, while it records."""
        self._recorded = 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Record a step, counted from 1, in the block if it is among those that are wanted."""
        if not self._mine or not self._wanted.holds(step):
            yield
            return
        if self._profile is None:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
        with self.phase("step"):
            yield
        self._recorded += 1
        if not self._wanted.holds(step + 1):
            self.close()

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Return a block that the trace names as a part of the step; it costs nothing where nothing is recorded."""
        return record_function(PHASE + name) if self._profile else nullcontext()

    def close(self) -> None:
        """Write what was recorded, also where the run ends within these steps. A full disk costs the record alone."""
        if self._profile is None:
            return
        recorder, self._profile = self._profile, None
        recorder.stop()
        self._mine = False
        if not self._recorded:
            return
        path = self._folder / f"rank{rank()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            recorder.export_chrome_trace(f"{path}.json.gz")
            events = timed_events(recorder.events())
            path.with_suffix(".txt").write_text(profile_text(events, self._recorded) + "\n", encoding="utf-8")
            draw_timeline(events, path.with_suffix(".png"))
        except OSError as error:
            log.warning(f"profile: {path}.* cannot be written ({error.strerror or error}): the record is lost")
        else:
            log.info(f"profile: {self._recorded} steps are in {path}.txt, .png and .json.gz")
