"""What runs have recorded step by step, read for pictures of it: series by name, smoothed, with names that differ."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..training.journal import read_records

WINDOW = 0.05
"""Reach of a smoothed value to either side, as a share of the steps up to it: runs of any length compare at a step."""
SHORTEST = 5
"""The least of that reach, in steps."""


@dataclass
class Run:
    """What is drawn of a run: its name in the legend, its records by step, and its config (empty if it has none).

    The records are read when a series is first asked for, and do not change from then on.
    """

    name: str
    records: dict[int, dict[str, Any]]
    config: dict[str, Any]

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps that have a finite value of `key`, and those values; both float64 (n,)."""
        return self._columns.get(key, (np.zeros(0), np.zeros(0)))

    @cached_property
    def _columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Every series by its key, read in one pass: a long run has a hundred thousand records."""
        lists: dict[str, tuple[list[int], list[float]]] = {}
        for step, record in self.records.items():
            for key, value in record.items():
                if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:  # neither NaN nor infinite
                    steps, values = lists.setdefault(key, ([], []))
                    steps.append(step)
                    values.append(value)
        return {key: (np.array(steps, float), np.array(values, float)) for key, (steps, values) in lists.items()}

    def total(self, loss: str) -> str:
        """Return what "loss" or "validation_loss" adds up, as "video + 0.25 image", or "video" where that is all.

        The records of a validation without its parts do not say it where the run trains on both: that is "total".
        """
        video, image = (self.series(f"{loss}_{part}")[1].any() for part in ("video", "image"))
        if loss != "loss" and not (video and image):
            return "total" if "+" in self.total("loss") else self.total("loss")
        if not (video and image):
            return "image" if image else "video"
        weight = self.config.get("image_loss_weight")
        told = isinstance(weight, (int, float)) and abs(weight) <= sys.float_info.max
        return f"video + {weight:g} image" if told else "video + image, weighted"

    @property
    def keys(self) -> frozenset[str]:
        """The keys under which some step has a number."""
        return frozenset(self._columns)

    @property
    def timesteps(self) -> list[int]:
        """The timesteps at which the run has a held-out loss, ascending."""
        return sorted(int(found[1]) for key in self.keys if (found := re.fullmatch(r"validation_loss_t(\d+)", key)))


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: where it lies below the folder that holds all of them.

    Raises:
        ConfigError: a run is given twice.
    """
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f"the same run is given twice: {', '.join(twice)}")
    above = Path(os.path.commonpath([place.parent for place in places]))
    return [str(place.relative_to(above)) for place in places]


def read_by_step(path: Path) -> dict[int, dict[str, Any]]:
    """Return the values of each step, by step. Lines that are incomplete or damaged are left out.

    Raises:
        DataError: the file cannot be read.
    """
    records: dict[int, dict[str, Any]] = {}
    try:
        lines = read_records(path)
    except OSError as error:
        raise DataError(f"metrics {path}: cannot be read: {error}") from None
    for record in lines:
        records.setdefault(record["step"], {}).update(record)
    return dict(sorted(records.items()))


def with_stages(runs: Sequence[Run]) -> None:
    """Put the stages into the names of runs of different stages, which are easily taken for runs that compare."""
    if len({str(run.config.get("stage")) for run in runs}) > 1:
        for run in runs:
            stage = str(run.config.get("stage", "stage unknown"))
            run.name += "" if run.name.endswith(stage) else f" ({stage})"


def validation_title(runs: Sequence[Run]) -> str:
    """Return what the validation loss is taken of: the weights, and the timesteps."""
    timesteps = sorted({timestep for run in runs for timestep in run.timesteps})
    averaged = [run.config.get("use_ema") for run in runs]
    weights = (
        "averaged weights, " if all(averaged) else "current weights, " if averaged.count(False) == len(runs) else ""
    )
    at = f"mean of timesteps {', '.join(map(str, timesteps))}" if timesteps else "fixed timesteps"
    return f"validation loss ({weights}{at}): does not compare with the training loss"


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return each value averaged with its neighbours, of which there are fewer near the ends."""
    at = np.arange(len(values))
    reach = np.maximum(SHORTEST, (at * WINDOW).astype(int))
    sums = np.concatenate([[0.0], values.cumsum()])
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def spread(heights: Sequence[np.ndarray]) -> float:
    """Return the largest over the smallest of values that are all positive; 0 if they are not."""
    values = np.concatenate(heights)
    return float(values.max() / values.min()) if values.min() > 0 else 0.0
