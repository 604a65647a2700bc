"""Choosing clips by rules: OUT/select/selection.parquet, and the funnel of what each rule leaves.

rules.yaml           the rules that held
selection.parquet    a row for each clip of all units, with what drops it
funnel.json          what each rule leaves
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...config.curate_select import Rule, SelectConfig
from ...errors import ConfigError
from ...files import replacing
from ..films import read_films
from ..stage import command_of
from ..table import arrow, read_table, write_table
from ..unit import units_of
from ..views import write_views
from .columns import makers, needed
from .funnel import Funnel, funnel_of
from .gather import Gathered, gather
from .rules import DERIVED, first_to_drop, verdict, with_derived

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "select"
"""The folder of the selection in OUT."""
SELECTION = "selection.parquet"
COPIED = ("film", "category", "frames", "fps", "duration", "width", "height", "bytes", "method")
"""Columns of `cut` that the selection repeats, so that shards and reports need no other table."""
SHOWN = ("aesthetic_mean", "aesthetic_min", "caption", "words", "clip_score")
"""Columns of other stages that the selection repeats; null where these have not been done."""


def select(out: Path, config: SelectConfig) -> Funnel:
    """Choose clips, write the folder `select` of a curation and its views, and return its funnel. Nothing is decoded.

    Args:
        out: the folder of the curation.
        config: the rules.

    Raises:
        ConfigError: a rule's column is made by no stage, or by one that has not run, or does not fit the rule.
        DataError: no unit is cut, or a file is damaged.
    """
    out, rules = out.resolve(), config.chosen
    wanted = needed([*(rule.column for rule in rules), *COPIED, *SHOWN])
    units = units_of(out, read_films(out))
    gathered = gather(out, units, wanted)
    table = with_derived(gathered.table, [rule.column for rule in rules])
    known = makers(rule.column for rule in rules)
    stages = {rule.column: known["width" if rule.column in DERIVED else rule.column] for rule in rules}
    measured = _measured(table, rules, stages, gathered, config.rules is None)
    verdicts = [verdict(table, rule, _unmeasured(table, gathered, stages[rule.column])) for rule in measured]
    dropped_by = first_to_drop(verdicts, table.num_rows)
    left_out = [rule for rule in rules if rule not in measured]
    funnel = funnel_of(table, verdicts, stages, left_out, gathered)

    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    with replacing(folder / "rules.yaml") as partial:
        partial.write_text(_as_yaml(measured), encoding="utf-8")
    with replacing(folder / SELECTION) as partial:
        write_table(partial, _selection(table, dropped_by), {})
    with replacing(folder / "funnel.json") as partial:
        partial.write_text(json.dumps(asdict(funnel), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_views(out)
    return funnel


def read_selection(out: Path, name: str = SELECTION) -> "pa.Table":
    """Return a table of the folder `select`.

    Raises:
        ConfigError: it is not there.
    """
    path = out / FOLDER / name
    if not path.is_file():
        command = "select" if name == SELECTION else Path(name).stem
        raise ConfigError(f"OUT {out}: no {FOLDER}/{name}: `lavie curate {command} {out}` comes first")
    return read_table(path)


def _measured(
    table: "pa.Table", rules: Sequence[Rule], stages: Mapping[str, str], gathered: Gathered, by_default: bool
) -> tuple[Rule, ...]:
    """Return the rules whose columns have been measured.

    Raises:
        ConfigError: one of the others was given by the user.
    """
    found = []
    for rule in rules:
        stage = stages[rule.column]
        run = stage not in gathered.absent
        if not run and not by_default:
            raise ConfigError(
                f"select.rules: {rule.column} is a column of {stage}, which has been done for no unit: "
                f"`{command_of(stage)}` makes it; or leave the rule out"
            )
        # A stage may run without what one of its columns needs, as an aesthetic head.
        if run and not (by_default and rule.empty is None and table[rule.column].null_count == table.num_rows):
            found.append(rule)
    return tuple(found)


def _unmeasured(table: "pa.Table", gathered: Gathered, stage: str) -> np.ndarray:
    """Return the clips of units that lack a stage: bool (clips,)."""
    pa, kinds = arrow(), gathered.faults.get(stage, {})
    units = [*kinds.get("missing", ()), *kinds.get("other clips", ())]
    return pa.compute.is_in(table["unit"], value_set=pa.array(units, pa.string())).to_numpy()


def _as_yaml(rules: Sequence[Rule]) -> str:
    """Return rules as a file that `lavie curate select` reads, without the keys that are not set."""
    import yaml

    plain = [rule.model_dump(mode="json", exclude_defaults=True) for rule in rules]
    return yaml.safe_dump({"rules": plain}, sort_keys=False)


def _selection(table: "pa.Table", dropped_by: "pa.StringArray") -> "pa.Table":
    """Return the rows of the selection: what leads, then all other columns in their order."""
    pa = arrow()
    keep = pa.compute.equal(dropped_by, "")
    lead = {"unit": table["unit"], "clip": table["clip"], "film": table["film"], "category": table["category"]}
    lead |= {"keep": keep, "dropped_by": dropped_by}
    rest = {name: table[name] for name in table.column_names if name not in lead}
    return pa.table(lead | rest)
