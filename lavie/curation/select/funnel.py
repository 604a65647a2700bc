"""The funnel: clips and hours that each rule leaves, and what it alone would drop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.curate_select import Rule
from .gather import Gathered
from .rules import Verdict

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Amount:
    """A number of clips, and how long they are."""

    clips: int
    hours: float


@dataclass(frozen=True)
class FunnelStep:
    """What one rule does to the clips."""

    rule: str
    """Its name, as "16 <= luma <= 235"."""
    column: str
    stage: str
    """The stage that makes the column."""
    min: float | None
    max: float | None
    left: Amount
    """What is left after this rule and those before it."""
    alone: Amount
    """What this rule alone would drop of all clips for their values; those without a value are not among them."""
    asks_for_none: bool
    """Whether the rule keeps exactly the clips without a value, as for duplicate_of."""
    no_value: int
    """Clips, of all, without a value in the column; for a rule that is about having none, those that nobody has looked
    at."""
    drops_no_value: bool
    """Whether these are dropped for it."""
    newly_no_value: int
    """Clips that the rules before have left and that this one drops because they have no value."""


@dataclass(frozen=True)
class Funnel:
    """From all clips to those that are kept."""

    all: Amount
    steps: tuple[FunnelStep, ...]
    kept: Amount
    not_measured: tuple[str, ...]
    """The names of rules that were left out, for nobody has measured their columns."""
    uncut: tuple[str, ...]
    """Units without clips: they are not cut yet, or could not be."""
    faults: dict[str, dict[str, list[str]]]
    """For each stage that some units have, those that lack it or have it of other clips or out of date."""


def funnel_of(
    table: "pa.Table",
    verdicts: Sequence[Verdict],
    stages: Mapping[str, str],
    left_out: Sequence[Rule],
    gathered: Gathered,
) -> Funnel:
    """Return the funnel of verdicts in their order.

    Args:
        table: the clips, with their `duration` in seconds.
        verdicts: of the rules that hold.
        stages: the stage that makes each column.
        left_out: the rules that were not measured.
        gathered: where the clips are from.
    """
    seconds = table["duration"].to_numpy()

    def amount(mask: Any) -> Amount:
        """Return how much a mask of clips holds; hours to a hundredth of a second."""
        return Amount(int(mask.sum()), round(float(seconds[mask].sum()) / 3600, 6))

    kept = np.ones(table.num_rows, bool)
    whole, steps = amount(kept), []
    for found in verdicts:
        rule, before = found.rule, kept
        kept = before & ~found.drops
        steps.append(
            FunnelStep(
                rule.name,
                rule.column,
                stages[rule.column],
                rule.min,
                rule.max,
                amount(kept),
                amount(found.outside),
                rule.empty is True,
                int(found.missing.sum()),
                found.drops_missing,
                int((before & found.missing).sum()) if found.drops_missing else 0,
            )
        )
    names = tuple(rule.name for rule in left_out)
    return Funnel(whole, tuple(steps), amount(kept), names, tuple(gathered.uncut), gathered.faults)
