"""What rules say of clips: which of them hold, and which is the first that drops a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_select import Rule
from ...errors import ConfigError
from ..table import arrow

if TYPE_CHECKING:
    import pyarrow as pa

DERIVED = {"short_side": "int32", "aspect": "double"}
"""Columns that are computed of `width` and `height` when a rule wants them, with their types."""


@dataclass(frozen=True)
class Verdict:
    """What one rule says of every clip."""

    rule: Rule
    outside: np.ndarray
    """bool (clips,): there is a value, and the rule drops it."""
    missing: np.ndarray
    """bool (clips,): there is no value, and the rule wants one. NaN is none."""

    @property
    def drops(self) -> np.ndarray:
        """Which clips the rule drops: bool (clips,)."""
        return self.outside | self.missing if self.drops_missing else self.outside

    @property
    def drops_missing(self) -> bool:
        """Whether a clip is dropped for having no value."""
        return self.rule.missing == "drop"

    @property
    def names(self) -> tuple[str, str]:
        """The names under which clips are dropped: for their value, and for having none."""
        return self.rule.name, f"{self.rule.column} has no value"


def survivors(table: "pa.Table", rules: Sequence[Rule]) -> "pa.StringArray":
    """Return for each clip the name of the first rule that drops it, or "" (see `Verdict.names`).

    Args:
        table: with the column of each rule, or with width and height for one of DERIVED.
        rules: in their order.

    Raises:
        ConfigError: a rule does not fit the type of its column.
    """
    return first_to_drop([verdict(table, rule) for rule in rules], table.num_rows)


def first_to_drop(verdicts: Sequence[Verdict], clips: int) -> "pa.StringArray":
    """Return for each of so many clips the name of the first rule that drops it, or ""."""
    pa = arrow()
    names, codes = [""], np.zeros(clips, np.int32)
    for found in verdicts:
        kept = codes == 0
        codes[kept & found.outside] = len(names)
        if found.drops_missing:
            codes[kept & found.missing] = len(names) + 1
        names += found.names
    return pa.DictionaryArray.from_arrays(codes, names).cast(pa.string())


def verdict(table: "pa.Table", rule: Rule, unmeasured: np.ndarray | None = None) -> Verdict:
    """Return what a rule says of the clips of a table.

    Args:
        table: as for `survivors`.
        rule: the rule.
        unmeasured: clips for which nobody has looked, bool (clips,): they have no value, also where a rule is about
            having none. Default: None, there are no such clips.

    Raises:
        ConfigError: the rule does not fit the type of its column.
    """
    compute = arrow().compute
    column = with_derived(table, [rule.column])[rule.column]
    check_type(rule, column.type)
    missing = compute.is_null(column, nan_is_null=True).to_numpy()
    if rule.empty is not None:
        nobody = np.zeros_like(missing) if unmeasured is None else unmeasured
        return Verdict(rule, (missing != rule.empty) & ~nobody, nobody)
    if rule.equals is not None:
        outside = compute.not_equal(column, rule.equals)
    elif rule.among is not None:
        outside = compute.invert(compute.is_in(column, value_set=arrow().array(rule.among)))
    else:
        outside = compute.or_(_beyond(column, rule.min, compute.less), _beyond(column, rule.max, compute.greater))
    return Verdict(rule, compute.fill_null(outside, False).to_numpy() & ~missing, missing)


def check_type(rule: Rule, kind: "pa.DataType") -> None:
    """Raise ConfigError unless a rule asks for what a column of this type can hold."""
    types = arrow().types
    fits = {
        "min or max": types.is_integer(kind) or types.is_floating(kind),
        "equals": types.is_boolean(kind),
        "among": types.is_string(kind),
    }
    asks = "among" if rule.among else "equals" if rule.equals is not None else "min or max"
    if rule.empty is None and not fits[asks]:
        wanted = " or ".join([*(name for name, fit in fits.items() if fit), "empty"])
        raise ConfigError(f"select.rules: {rule.column} is of type {kind}, and its rule sets {asks}: wanted {wanted}")


def with_derived(table: "pa.Table", names: Sequence[str]) -> "pa.Table":
    """Return a table with those of DERIVED that are among the names, made of its width and height."""
    pa = arrow()
    compute = pa.compute
    for name in names:
        if name not in DERIVED or name in table.column_names:
            continue
        width, height = table["width"], table["height"]
        if name == "aspect":
            values = compute.divide(width.cast(pa.float64()), height.cast(pa.float64()))
        else:
            values = compute.min_element_wise(width, height, skip_nulls=False)
        table = table.append_column(name, values)
    return table


def _beyond(column: Any, bound: float | None, compare: Any) -> Any:
    """Return which values lie beyond a bound, none where there is no bound."""
    pa = arrow()
    if bound is None:
        return pa.chunked_array([pa.repeat(pa.scalar(False), len(column))])
    # A value that was rounded to the column's type equals a bound that is rounded alike.
    limit = pa.scalar(bound, column.type if pa.types.is_floating(column.type) else pa.float64())
    return compare(column, limit)
