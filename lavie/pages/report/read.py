"""What the folder of a run holds for its report. What is missing or damaged is told, and costs nothing else."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from ...config.load import read_yaml
from ...errors import ConfigError, LavieError
from ...evaluation.measured import read_result
from ...evaluation.run_records import Run, names_of, read_by_step, with_stages
from ...json_text import read_json
from ...run_folder import METRICS, RUN_CONFIG, SAMPLES, checkpoint_candidates, is_finished, step_of
from ...training.account import EVENTS, causes_of
from ...training.journal import read_records
from ...training.writers import Sample, samples_in

STEP_FOLDER = re.compile(r"step-(\d+)")
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""The names of samples that `lavie.inference.video_io` writes: none leads to another folder."""


@dataclass
class Seen:
    """A run as its folder shows it."""

    folder: Path
    run: Run
    events: list[dict[str, Any]]
    """The lines of events.jsonl, in order."""
    causes: Counter[str]
    """How many samples were replaced, by cause."""
    samples: dict[int, list[Sample]]
    """What validation drew, by step."""
    checkpoints: dict[int, bool]
    """The checkpoints that lie there, by step, and whether each is finished."""
    results: list[tuple[Path, dict[str, Any]]]
    """The results of `lavie eval` in the folder, by file."""
    faults: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""

    @property
    def steps(self) -> tuple[int, int]:
        """The first and the last step of its records; 0 and 0 without any."""
        return (min(self.run.records, default=0), max(self.run.records, default=0))

    def last(self, key: str) -> Any:
        """Return the last value of a key that is not None, else None."""
        found = (record[key] for record in reversed(self.run.records.values()) if record.get(key) is not None)
        return next(found, None)

    def of_kind(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [found for found in self.events if found.get("event") == event]

    @property
    def facts(self) -> dict[str, Any]:
        """What the run was made from at its last start; empty for one that did not write it down."""
        return next(reversed(self.of_kind("facts")), {})


def read(folders: Sequence[Path]) -> list[Seen]:
    """Return what the folders of runs show.

    Raises:
        ConfigError: one is no run's folder, or is given twice.
    """
    require_runs(folders)
    found = [_read(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    with_stages([seen.run for seen in found])
    return found


def require_runs(folders: Sequence[Path]) -> None:
    """Raise ConfigError unless folders are those of runs, each given once."""
    for folder in folders:
        if not ((folder / METRICS).is_file() or (folder / RUN_CONFIG).is_file()):
            raise ConfigError(f"{folder} is no run: it has neither {METRICS} nor {RUN_CONFIG}; wanted an output_dir")
    names_of(folders)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value that was read is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def results_in(place: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a result of `lavie eval`, or those of a folder, where other files are passed by.

    Raises:
        DataError: a file is none, or cannot be read.
    """
    if not place.is_dir():
        return [(place, read_result(place))]
    return [(path, read_result(path)) for path in sorted(place.glob("*.json")) if _is_result(path)]


def _is_result(path: Path) -> bool:
    """Return whether a JSON file says of itself that it is a result."""
    try:
        found = read_json(path)
    except LavieError:
        return False
    return isinstance(found, dict) and "protocol_hash" in found and "metric" in found


def _read(folder: Path, name: str) -> Seen:
    """Read a run's folder."""
    faults: list[str] = []

    def attempt(what: str, reader: Callable[[], Any], without: Any) -> Any:
        """Return what a reader returns, or `without`, and then tell why."""
        try:
            return reader()
        except (LavieError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            faults.append(f"{what} cannot be read: {reason}")
            return without

    run = Run(name, {}, {})
    if (folder / METRICS).is_file():
        run.records = attempt(METRICS, lambda: read_by_step(folder / METRICS), {})
    if (folder / RUN_CONFIG).is_file():
        run.config = attempt(RUN_CONFIG, lambda: read_yaml(folder / RUN_CONFIG), {})
    events = attempt(EVENTS, lambda: read_records(folder / EVENTS), []) if (folder / EVENTS).is_file() else []
    causes = attempt("dropped-rank*.jsonl", lambda: causes_of(folder), Counter())
    results: list[tuple[Path, dict[str, Any]]] = []
    for path in sorted(folder.glob("*.json")):
        if _is_result(path):
            results += attempt(path.name, partial(results_in, path), [])
    samples: dict[int, list[Sample]] = {}
    for path in sorted((folder / SAMPLES).glob("step-*")):
        step = STEP_FOLDER.fullmatch(path.name)
        drawn = attempt(f"{SAMPLES}/{path.name}", partial(_samples, path), []) if step else []
        if step and drawn:
            samples[int(step[1])] = drawn
    checkpoints = {step_of(path): is_finished(path) for path in checkpoint_candidates(folder)}
    return Seen(folder, run, events, causes, dict(sorted(samples.items())), checkpoints, results, faults)


def _samples(folder: Path) -> list[Sample]:
    """Return the samples of a folder. ValueError for a name that leads out of it."""
    found = samples_in(folder)
    for sample in found:
        if not (isinstance(sample.name, str) and SAFE_NAME.fullmatch(sample.name)):
            raise ValueError(f"a sample has the name {json.dumps(sample.name)}")
        if not isinstance(sample.prompt, str):
            raise ValueError(f"the prompt of sample {sample.name} is no text")
    return found
