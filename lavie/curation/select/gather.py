"""The columns of all clips as one table, read by several processes where there are many units, and kept.

OUT/cache/gathered.arrow holds what was read last. It is taken again while no file that it was made of has been written
anew, so that another threshold costs no walk through thousands of files. It may be deleted at any time.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...files import replacing
from ..engine.local import LocalEngine
from ..table import META, arrow, columns_path, text_hash
from ..unit import Unit
from .columns import Wanted, unit_columns

if TYPE_CHECKING:
    import pyarrow as pa

PART = 250
"""Units that one process reads at a time. So few are read at once and not kept: the start of a process takes longer."""
KEPT = Path("cache/gathered.arrow")
"""Where in OUT the table is kept."""


@dataclass
class Gathered:
    """The clips of a curation, in the order of their units and, within one, of `cut`."""

    table: "pa.Table"
    """`unit`, `clip`, and the columns that were asked for."""
    uncut: list[str] = field(default_factory=list)
    """Units without clips: they are not cut yet, or could not be."""
    absent: list[str] = field(default_factory=list)
    """Stages that no unit has; all their values are null."""
    faults: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """For each other stage, the units by what is wrong with it there (see `unit_columns`)."""


def gather(out: Path, units: Sequence[Unit], wanted: Wanted) -> Gathered:
    """Return columns of all clips.

    Args:
        out: the folder of the curation.
        units: in their order.
        wanted: the columns to read of each stage.

    Raises:
        DataError: a file is damaged, or no unit is cut.
    """
    names = [unit.name for unit in units]
    if len(names) <= PART:
        return _joined(out, len(names), [_gather((str(out), names, wanted))])
    key = _stamp(out, names, wanted)
    found = _kept(out / KEPT, key)
    if found is None:
        found = _joined(out, len(names), _read_side_by_side(out, names, wanted))
        _keep(out / KEPT, key, found)
    return found


def _read_side_by_side(out: Path, names: Sequence[str], wanted: Wanted) -> list[Any]:
    """Return what `_gather` returns of parts of the units, in their order, by a pool of processes."""
    parts = [(str(out), list(names[i : i + PART]), wanted) for i in range(0, len(names), PART)]
    results = {}
    for part, result, death in LocalEngine(len(os.sched_getaffinity(0))).map(_gather, parts):
        results[part[1][0]] = f"units {part[1][0]} to {part[1][-1]} cannot be read: {death}" if death else result
    return [results[part[1][0]] for part in parts]


def _gather(part: tuple[str, Sequence[str], Wanted]) -> Any:
    """Return the columns of some units, those that are not cut, and faults; or the message of a DataError."""
    pa = arrow()
    out, units, wanted = part
    tables, uncut, faults = [], [], []
    try:
        for unit in units:
            found = unit_columns(Path(out), unit, wanted)
            if found is None:
                uncut.append(unit)
                continue
            tables.append(found[0].add_column(0, "unit", pa.repeat(pa.scalar(unit), found[0].num_rows)))
            faults += [(stage, unit, fault) for stage, fault in found[1].items()]
    except DataError as error:
        return str(error)
    return (pa.concat_tables(tables).combine_chunks() if tables else None), uncut, faults


def _joined(out: Path, units: int, results: Sequence[Any]) -> Gathered:
    """Return the results of `_gather` for so many units as one.

    Raises:
        DataError: it is the message of one of them, or no unit is cut.
    """
    tables, uncut = [], []
    faults: dict[str, dict[str, list[str]]] = {}
    for result in results:
        if isinstance(result, str):
            raise DataError(result)
        table, own_uncut, own_faults = result
        tables += [] if table is None else [table]
        uncut += own_uncut
        for stage, unit, fault in own_faults:
            faults.setdefault(stage, {}).setdefault(fault, []).append(unit)
    if not tables:
        raise DataError(f"OUT {out}: no unit is cut: `lavie curate cut {out}` comes first")
    lacking = {stage: [*kinds.get("missing", ()), *kinds.get("other clips", ())] for stage, kinds in faults.items()}
    absent = [stage for stage, own in lacking.items() if len(own) == units - len(uncut)]
    ordered = {stage: dict(sorted(faults[stage].items())) for stage in sorted(faults) if stage not in absent}
    return Gathered(arrow().concat_tables(tables), uncut, absent, ordered)


def _stamp(out: Path, names: Sequence[str], wanted: Wanted) -> str:
    """Return a hash of what is asked for, and of the size and time of writing of each file that it is read from."""
    stamps = []
    for stage in wanted:
        folder = columns_path(out, stage, "").parent
        found = {}
        if folder.is_dir():
            with os.scandir(folder) as entries:
                found = {entry.name: [(facts := entry.stat()).st_mtime_ns, facts.st_size] for entry in entries}
        stamps.append([found.get(columns_path(out, stage, name).name) for name in names])
    return text_hash(list(names), {stage: list(columns) for stage, columns in wanted.items()}, stamps)


def _kept(path: Path, key: str) -> Gathered | None:
    """Return the table that is kept, if it was made of files with this stamp."""
    pa = arrow()
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        made = json.loads(table.schema.metadata[META])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):  # not there, or damaged: it is read anew
        return None
    if made.pop("key") != key:
        return None
    return Gathered(table.replace_schema_metadata(None), **made)


def _keep(path: Path, key: str, found: Gathered) -> None:
    """Keep a table that was made of files with this stamp."""
    pa = arrow()
    made = {"key": key, "uncut": found.uncut, "absent": found.absent, "faults": found.faults}
    table = found.table.replace_schema_metadata({META: json.dumps(made).encode()})
    path.parent.mkdir(exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with replacing(path) as partial, pa.ipc.new_file(str(partial), table.schema, options=options) as writer:
        writer.write_table(table)
