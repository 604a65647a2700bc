"""The columns of all clips as one table, read by several processes where there are many units."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ..engine.local import LocalEngine
from ..table import arrow
from ..unit import Unit
from .columns import Wanted, unit_columns

if TYPE_CHECKING:
    import pyarrow as pa

PART = 250
"""Units that one process reads at a time; fewer are read at once, for the start of a process takes a second."""


@dataclass
class Gathered:
    """The clips of a curation, in the order of their units and, within one, of `cut`."""

    table: "pa.Table"
    """`unit`, `clip`, and the columns that were asked for."""
    uncut: list[str] = field(default_factory=list)
    """Units without clips: they are not cut yet, or could not be."""
    faults: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """For each stage that some units lack, the units by what is wrong with it there (see `unit_columns`)."""


def gather(units: Sequence[Unit], wanted: Wanted) -> Gathered:
    """Return columns of all clips.

    Args:
        units: in their order.
        wanted: the columns to read of each stage.

    Raises:
        DataError: a file is damaged, or no unit is cut.
    """
    pa = arrow()
    names = [unit.name for unit in units]
    out = str(units[0].out) if units else ""
    parts = [(out, names[i : i + PART], dict(wanted)) for i in range(0, len(names), PART)]
    tables: dict[str, Any] = {}
    faults: dict[str, dict[str, list[str]]] = {}
    uncut: list[str] = []
    engine = LocalEngine(len(os.sched_getaffinity(0)))
    for part, result, death in [(parts[0], _gather(parts[0]), "")] if len(parts) == 1 else engine.map(_gather, parts):
        if result is None or isinstance(result, str):
            raise DataError(result or f"units {part[1][0]} to {part[1][-1]} cannot be read: {death}")
        tables[part[1][0]], own_uncut, own_faults = result
        uncut += own_uncut
        for stage, unit, fault in own_faults:
            faults.setdefault(stage, {}).setdefault(fault, []).append(unit)
    found = [tables[part[1][0]] for part in parts if tables[part[1][0]] is not None]
    if not found:
        raise DataError(f"OUT {out}: no unit is cut: `lavie curate cut {out}` comes first")
    ordered = {stage: {kind: sorted(own) for kind, own in sorted(kinds.items())} for stage, kinds in faults.items()}
    stages = {stage: ordered[stage] for stage in wanted if stage in ordered}
    return Gathered(pa.concat_tables(found), sorted(uncut), stages)


def _gather(part: tuple[str, list[str], dict[str, Sequence[str]]]) -> Any:
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
