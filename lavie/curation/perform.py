"""What an engine runs: one stage on one unit, or on all, whose files then appear whole or not at all.

A unit that is done twice, by two runs or after a lost answer, ends with the same bytes. So an engine may run a task
again whenever it does not know what became of it.
"""

import json
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.shards.index_file import write_rejected
from ..errors import LavieError
from ..files import sha256_of
from .films import read_films
from .partial import partial_folder
from .stage import Done, Stage, find_stage, made, standings
from .table import META, Made, columns_path, content_hash, make_table, rejected_path, write_table
from .unit import Unit, units_of


@dataclass(frozen=True)
class Task:
    """One stage for one unit: paths and settings, no pixels."""

    out: str
    stage: str
    """Its name, or its place as "module:NAME"."""
    config: dict[str, Any]
    """Its settings, as JSON holds them."""
    unit: str | None
    """The name of the unit; None for a stage of the whole."""
    seconds: float
    """How long its films are: longer ones are begun first."""


@dataclass(frozen=True)
class Result:
    """What became of a task."""

    unit: str | None
    error: str = ""
    """Why it was not done; empty if it was."""
    seconds: float = 0.0
    """How long it took."""


def perform(task: Task) -> Result:
    """Do a task, unless somebody else has done it by now; whatever goes wrong is the result's `error`."""
    began = time.monotonic()
    try:
        _perform(task)
    except (LavieError, OSError) as error:
        return Result(task.unit, f"{type(error).__name__}: {error}", time.monotonic() - began)
    except Exception:  # a fault of the program costs its unit only, and is shown in full
        return Result(task.unit, traceback.format_exc(), time.monotonic() - began)
    return Result(task.unit, "", time.monotonic() - began)


def _perform(task: Task) -> None:
    """Do a task."""
    out, stage = Path(task.out), find_stage(task.stage)
    config = stage.config.model_validate(task.config)
    units = units_of(out, read_films(out))
    if stage.whole is None:
        units = [unit for unit in units if unit.name == task.unit]
    # What is read is told before the work: if it changes meanwhile, the columns are out of date at once.
    found = standings(stage, config, units)
    if all(standing.done for standing in found):
        return
    sources = {standing.unit.name: standing.wanted for standing in found}
    with partial_folder(out, f"{stage.name}.{task.unit or 'all'}") as folder:
        for unit in units:
            unit.folder = folder
        for unit, done in _results(stage, config, units):
            source = sources[unit.name]
            assert source is not None
            commit(stage, unit, done, source)


def _results(stage: Stage, config: Any, units: list[Unit]) -> Iterator[tuple[Unit, Done]]:
    """Yield what a stage makes of the units of a task."""
    if stage.whole is not None:
        yield from stage.whole(units, config)
        return
    assert stage.work is not None
    for unit in units:
        yield unit, stage.work(unit, config)


def commit(stage: Stage, unit: Unit, done: Done, source: Made) -> None:
    """Put what a stage made of a unit in its place: files beside the columns, what was refused, the columns last.

    `source` says what it was made of.
    """
    assert unit.folder is not None
    table = make_table(done.columns, stage.columns)
    if stage.name != "cut" and "clip" in stage.columns:
        cut = unit.read("cut", ["clip"])["clip"]
        assert table["clip"].equals(cut), f"{stage.name}: its rows are not those of cut, in their order"
    path = columns_path(unit.out, stage.name, unit.name)
    listed = rejected_path(unit.out, stage.name, unit.name)

    # Everything is on the disk before the first rename.
    refused = unit.folder / "rejected.jsonl"
    write_rejected(refused, done.rejected)
    files = [(refused, listed)] if done.rejected else []
    files += [unit.side[kind] for kind in sorted(unit.side)]
    hashes = [(str(final.relative_to(unit.out)), sha256_of(partial)) for partial, final in files]
    source = replace(source, content=content_hash(table, hashes), rows=table.num_rows, rejected=len(done.rejected))
    columns = unit.folder / "columns.parquet"
    write_table(columns, table, {META: json_of(source)})
    for partial, final in [*files, (columns, path)]:
        _flush(partial)
        final.parent.mkdir(parents=True, exist_ok=True)

    # Columns of other settings must not be found beside the new files if this process ends here.
    if files and not source.of_the_same(made(unit.out, stage.name, unit.name)):
        path.unlink(missing_ok=True)
        _flush(path.parent)
    for partial, final in files:
        os.replace(partial, final)
        _flush(final.parent)
    if not done.rejected:
        listed.unlink(missing_ok=True)
    os.replace(columns, path)
    _flush(path.parent)
    unit.side.clear()


def json_of(value: Any) -> bytes:
    """Return a dataclass as JSON, the same bytes for the same values."""
    return json.dumps(asdict(value), sort_keys=True, ensure_ascii=False).encode()


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
