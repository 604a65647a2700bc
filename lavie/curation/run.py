"""Bringing the columns of a stage up to date: what is out of date is found, done by an engine, and counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config.base import Strict
from .engine.base import Engine
from .films import FilmList, read_films
from .partial import sweep
from .perform import Result, Task, perform
from .stage import Stage, find_stage, lacking, standings
from .table import read_rejected, rejected_path
from .unit import Unit, units_of

Progress = Callable[[int, int | None], None]
"""A listener, called with the number of units done and of all that are out of date."""


@dataclass
class StageReport:
    """What came of bringing one stage up to date."""

    stage: str
    units: int
    """All units of the curation."""
    done: int = 0
    """Units that were done now."""
    waiting: tuple[str, ...] = ()
    """Units for which a stage that this one reads is not done."""
    lacking: tuple[str, ...] = ()
    """The stages that they wait for."""
    failed: dict[str, str] = field(default_factory=dict)
    """Units that could not be done, each with the reason; the next call tries them again."""
    refused: Counter[str] = field(default_factory=Counter)
    """Films or clips that were refused in the units that were done now, by the reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, the first that was refused, and what is wrong with it."""
    refused_before: int = 0
    """Films or clips that were refused in the units that were up to date."""


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is."""

    stage: str
    done: int
    """Units whose columns are there and up to date."""
    stale: int
    """Units whose columns are there and were made of something else than they would be made of now."""
    missing: int
    """Units without columns."""
    rows: int
    """Films or clips in the columns that are there."""
    rejected: int
    """Films or clips that were refused."""


def run_stage(
    out: Path,
    place: str,
    config: Strict,
    engine: Engine,
    *,
    progress: Progress = lambda done, total: None,
) -> StageReport:
    """Have all units of a stage done that are out of date.

    Args:
        out: the folder of the curation.
        place: the name of the stage, or its place as "module:NAME".
        config: its settings.
        engine: where the units are worked on.
        progress: called after each unit.

    Raises:
        ConfigError: there is no list of films.
    """
    out = out.resolve()
    stage, units = find_stage(place), units_of(out, read_films(out))
    names = [unit.name for unit in units]
    sweep(out)
    report = StageReport(stage.name, len(units))
    found = standings(stage, config, units)
    waiting = [one.unit for one in found if one.wanted is None]
    report.refused_before = sum(one.made.rejected for one in found if one.done and one.made is not None)
    report.waiting, report.lacking = tuple(unit.name for unit in waiting), lacking(stage, config, waiting)
    tasks = _tasks(place, stage, config, [one.unit for one in found if one.wanted is not None and not one.done])
    for done, (task, result, death) in enumerate(engine.map(perform, tasks, gpu=stage.gpu), start=1):
        outcome = result or Result(task.unit, death)
        if outcome.error:
            report.failed[task.unit or "all units"] = outcome.error
        else:
            report.done += 1 if task.unit else len(units)
            for name in names if task.unit is None else [task.unit]:
                _count_refused(report, rejected_path(out, stage.name, name))
        progress(done, len(tasks))
    sweep(out)
    return report


def stage_status(out: Path, place: str, config: Strict, films: FilmList) -> StageStatus:
    """Return how far a stage is, with these settings."""
    stage, units = find_stage(place), units_of(out.resolve(), films)
    found = standings(stage, config, units)
    there = [one.made for one in found if one.made is not None]
    done = sum(one.done for one in found)
    return StageStatus(
        stage.name,
        done,
        len(there) - done,
        len(units) - len(there),
        sum(one.rows for one in there),
        sum(one.rejected for one in there),
    )


def _count_refused(report: StageReport, path: Path) -> None:
    """Add to a report what was refused of a unit."""
    for item in read_rejected(path):
        report.refused[item.reason] += 1
        report.examples.setdefault(item.reason, f"{item.name}: {item.detail}")


def _tasks(place: str, stage: Stage, config: Strict, units: Sequence[Unit]) -> list[Task]:
    """Return the tasks for units that are out of date, the longest first."""
    settings = config.model_dump(mode="json")
    if stage.whole is not None:
        return [Task(str(units[0].out), place, settings, None, 0.0)] if units else []
    tasks = [
        Task(str(unit.out), place, settings, unit.name, sum(film.seconds for film in unit.films)) for unit in units
    ]
    return sorted(tasks, key=lambda task: (-task.seconds, task.unit))
