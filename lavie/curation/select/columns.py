"""Which stage makes which column of a clip, and the columns of one unit side by side, whoever made them."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.curate_score import SCORER
from ...errors import ConfigError
from ..score.plugins import installed_scorers
from ..stage import STAGES, find_stage
from ..table import META, Made, arrow, arrow_type, columns_path, naming
from .rules import DERIVED

if TYPE_CHECKING:
    import pyarrow as pa

Wanted = Mapping[str, Sequence[str]]
"""The columns that are read of each stage, `cut` first."""
SMALL = 1 << 20
"""Bytes up to which a file is read whole: one read is faster than several, but embeddings are large."""


def makers(names: Iterable[str] = ()) -> dict[str, str]:
    """Return the stage that makes each column of a clip, in the order of the stages.

    Args:
        names: columns that are asked for. If no stage of this package makes one, the scorers of others are looked at,
            which loads them.
    """
    found: dict[str, str] = {}
    for name in STAGES:
        if name != "scan":  # its rows are films
            for column in find_stage(name).columns:
                found.setdefault(column, name)
    if any(name not in found and name not in DERIVED for name in names):
        for scorer in installed_scorers():
            for column in find_stage(f"{SCORER}{scorer}").columns:
                found.setdefault(column, f"{SCORER}{scorer}")
    return found


def needed(names: Iterable[str], *, key: str = "select.rules") -> dict[str, list[str]]:
    """Return the columns to read of each stage for some columns of a clip, `cut` first.

    Args:
        names: columns, or those of `rules.DERIVED`.
        key: the key of the settings that asks for them, for messages.

    Raises:
        ConfigError: no stage makes one of them.
    """
    names = list(names)
    known = makers(names)
    wanted: dict[str, list[str]] = {stage: [] for stage in dict.fromkeys(["cut", *known.values()])}
    plain = [part for name in names for part in (("width", "height") if name in DERIVED else (name,))]
    for name in dict.fromkeys(plain):
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *DERIVED], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*known, *DERIVED])}"
            raise ConfigError(f"{key}: no stage makes a column {name}; {hint}")
        wanted[known[name]].append(name)
    return {stage: columns for stage, columns in wanted.items() if columns or stage == "cut"}


def unit_columns(out: Path, unit: str, wanted: Wanted) -> tuple["pa.Table", dict[str, str]] | None:
    """Return columns of one unit, with what is wrong with some stages; None where the unit is not cut.

    Args:
        out: the folder of the curation.
        unit: its name.
        wanted: what to read of each stage. The column `clip` is always there.

    Returns:
        A table of exactly these columns; and for stages "missing", "other clips" (its columns are of an earlier cut) or
        "out of date" (made of other columns than are there now). Of the first two, the values are null.

    Raises:
        DataError: a file is damaged.
    """
    pa = arrow()
    found = _read(columns_path(out, "cut", unit), dict.fromkeys(["clip", *wanted.get("cut", ())]))
    if found is None:
        return None
    table, cut = found
    made, faults = {"cut": cut}, {}
    for stage, names in wanted.items():
        if stage == "cut":
            continue
        path = columns_path(out, stage, unit)
        found = _read(path, names)
        if found is not None:
            made[stage] = found[1]
            if found[1].inputs.get("cut") != cut.content and not _same_clips(path, table):
                found, faults[stage] = None, "other clips"
        else:
            faults[stage] = "missing"
        for name in names:
            kind = arrow_type(find_stage(stage).columns[name])
            table = table.append_column(name, pa.nulls(table.num_rows, kind) if found is None else found[0][name])
    for stage, own in made.items():
        others = [name for name in own.inputs if name in made and own.inputs[name] != made[name].content]
        if others and not find_stage(stage).whole:  # the inputs of a stage of the whole are those of all units
            faults.setdefault(stage, "out of date")
    return table, faults


def _same_clips(path: Path, table: "pa.Table") -> bool:
    """Return whether a file of columns has the clips of a table, in its order."""
    found = _read(path, ["clip"])
    return found is not None and found[0]["clip"].equals(table["clip"])


def _read(path: Path, names: Iterable[str]) -> tuple["pa.Table", Made] | None:
    """Return columns and what they were made of; None where the file is missing, or is too old to have them."""
    pa = arrow()
    try:
        with naming(path, "no columns of a curation", "remove it, and its unit is done again"):
            source: Any = pa.py_buffer(path.read_bytes()) if path.stat().st_size <= SMALL else str(path)
            file = pa.parquet.ParquetFile(source, memory_map=False)
            own = Made(**json.loads(file.metadata.metadata[META]))
            table = file.read(names := list(names), use_threads=False).replace_schema_metadata(None)
            return (table, own) if table.num_columns == len(names) else None
    except FileNotFoundError:
        return None
