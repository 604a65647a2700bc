"""The set of the best clips of a selection: OUT/select/quality.parquet.

1. Candidates are at or above a percentile of all selected clips in each of the scores.
2. Each is ranked by each score among the candidates; the mean of its ranks orders them, then its name.
3. A film gives its first clips in this order, so many at most.
4. The categories give their first clip in turn, so that they are filled evenly; what one lacks the others give.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...config.curate_quality import QualityConfig
from ...errors import ConfigError, DataError
from ...files import replacing
from ..films import read_films
from ..table import arrow, write_table
from ..unit import units_of
from .columns import needed
from .gather import gather
from .select import FOLDER, read_selection

if TYPE_CHECKING:
    import pyarrow as pa

QUALITY = "quality.parquet"


@dataclass(frozen=True)
class Quality:
    """What came of choosing the best."""

    selected: int
    """Clips of the selection."""
    without: dict[str, int]
    """For each score, the selected clips that have no value."""
    thresholds: dict[str, float]
    """The percentile of each score."""
    candidates: int
    """Clips at or above all of them."""
    chosen: dict[str, int]
    """For each category, the clips that were chosen; "" stands for films without one."""


def choose_quality(out: Path, config: QualityConfig) -> Quality:
    """Choose the best clips of a selection and write them, the best first, with their `mean_rank`.

    Args:
        out: the folder of the curation.
        config: how.

    Raises:
        ConfigError: there is no selection, or a score has not been measured.
        DataError: no clip can be chosen, or the selection is of other clips than are cut now.
    """
    out = out.resolve()
    kept = _with_scores(out, config.columns)
    scores = np.stack([kept[name].to_numpy().astype(np.float64) for name in config.columns], axis=1)
    there = np.isfinite(scores)
    without = {name: int((~there[:, i]).sum()) for i, name in enumerate(config.columns)}
    if unmeasured := [name for name in config.columns if without[name] == kept.num_rows]:
        raise ConfigError(
            f"quality.columns: no selected clip has a value in {', '.join(unmeasured)}: run the stage that makes it "
            f"and `lavie curate select {out}` again, or name other columns"
        )
    measured = there.all(axis=1)
    if not measured.any():
        raise DataError(f"{out}: none of {kept.num_rows} selected clips has a value in all of {', '.join(without)}")

    limits = np.percentile(scores[measured], config.percentile, axis=0)
    above = np.flatnonzero(measured & (np.where(there, scores, -np.inf) >= limits).all(axis=1))
    mean_rank = _mean_ranks(scores[above])
    names = kept["clip"].to_pylist()
    order = sorted(range(len(above)), key=lambda i: (mean_rank[i], names[above[i]]))
    films, categories = kept["film"].to_pylist(), [category or "" for category in kept["category"].to_pylist()]
    capped = list(_first_of_each([films[above[i]] for i in order], config.per_film))
    in_turn = _in_turn([categories[above[order[place]]] for place in capped], config.count)
    chosen = [order[capped[place]] for place in in_turn]

    rows = kept.take(arrow().array(above[chosen])).append_column("mean_rank", arrow().array(mean_rank[chosen]))
    with replacing(out / FOLDER / QUALITY) as partial:
        write_table(partial, rows, {})
    counts = Counter(categories[above[i]] for i in chosen)
    thresholds = dict(zip(config.columns, map(float, limits), strict=True))
    return Quality(kept.num_rows, without, thresholds, len(above), dict(sorted(counts.items())))


def _with_scores(out: Path, columns: Sequence[str]) -> "pa.Table":
    """Return the kept rows of the selection, with scores that it lacks from where they were measured."""
    selection = read_selection(out)
    if lacking := [name for name in columns if name not in selection.column_names]:
        gathered = gather(out, units_of(out, read_films(out)), needed(lacking, key="quality.columns")).table
        if not gathered["clip"].equals(selection["clip"]):
            raise DataError(f"{out}: the selection is of other clips than are cut now: `lavie curate select {out}`")
        for name in lacking:
            selection = selection.append_column(name, gathered[name])
    types = arrow().types
    for name in columns:
        if not (types.is_floating(kind := selection[name].type) or types.is_integer(kind)):
            raise ConfigError(f"quality.columns: {name} is of type {kind}: wanted a column of numbers")
    kept = selection.filter(selection["keep"])
    if not kept.num_rows:
        raise DataError(f"{out}: the selection keeps no clip: loosen the rules of `lavie curate select`")
    return kept


def _mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Return the mean over scores of each clip's rank: the number of clips that are better, float64 (clips,).

    Args:
        scores: float64 (clips, scores), more is better.
    """
    ranks = [np.searchsorted(np.sort(-column), -column) for column in scores.T]
    return np.stack(ranks).mean(axis=0)


def _first_of_each(keys: Sequence[str], most: int) -> Iterator[int]:
    """Yield the places of the first so many of each key."""
    seen: Counter[str] = Counter()
    for place, key in enumerate(keys):
        seen[key] += 1
        if seen[key] <= most:
            yield place


def _in_turn(keys: Sequence[str], count: int) -> list[int]:
    """Return the places of so many, in their order: the first of each key, then the second of each, and so on.

    Of a round that cannot be finished, the first places are taken.
    """
    rounds: dict[str, int] = defaultdict(int)
    turns = []
    for place, key in enumerate(keys):
        turns.append((rounds[key], place))
        rounds[key] += 1
    return sorted(place for _, place in sorted(turns)[:count])
