"""The numbers of a curation, of all its clips and of those kept: what the paper's figures 7 and 8 show, and more."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..select.columns import unit_columns
from ..table import read_rejected
from ..unit import Unit

if TYPE_CHECKING:
    import pyarrow as pa

BIN_SECONDS, LONGEST = 0.5, 20.0
"""Durations are counted in bins of so many seconds up to the second number; longer clips share one bin."""
MOST_WORDS = 30
"""Captions with more words share one bin."""
AESTHETIC_EDGES = (4.0, 6.0)
"""Aesthetic scores between which the paper counts: below, from the first to the second, above."""
PAPER_AESTHETIC = {"Vimeo25M (paper)": (0.0399, 0.7912, 0.1689), "WebVid10M (paper)": (0.2020, 0.7258, 0.0722)}
"""Shares of clips with an aesthetic score below 4, of 4 to 6, and above 6: figure 8a of the paper. It gives the last
two; the first is the rest."""
SIDES = (480, 720, 1080, 1440, 2160)
"""Short sides, in pixels, from which a clip counts to the next class of resolutions."""
SIDE_NAMES = ("< 480", "480", "720", "1080", "1440", ">= 2160")


@dataclass(frozen=True)
class Statistics:
    """How clips are spread over categories, durations, captions, scores and sizes."""

    clips: int
    hours: float
    categories: dict[str, int]
    """Clips of each category, the most frequent first; the name is empty for films that lie in no folder."""
    durations: list[int]
    """Clips in each bin of BIN_SECONDS, then those of LONGEST and longer."""
    words: list[int]
    """Clips whose caption has 0, 1, ... MOST_WORDS words, then longer ones; clips without a caption are not counted."""
    captioned: int
    aesthetic: tuple[int, int, int]
    """Clips with an aesthetic score below, within and above AESTHETIC_EDGES; those without one are not counted."""
    sides: list[int]
    """Clips of each class of SIDE_NAMES."""

    @property
    def aesthetic_shares(self) -> tuple[float, ...] | None:
        """The shares that the paper's figure 8a shows; they add up to 1. None if no clip has a score."""
        total = sum(self.aesthetic)
        return tuple(count / total for count in self.aesthetic) if total else None


def statistics_of(table: "pa.Table") -> Statistics:
    """Return the statistics of rows of a selection.

    Args:
        table: with the columns `duration`, `category`, `width`, `height` and, where they were measured, `words` and
            `aesthetic_mean`.
    """
    seconds = table["duration"].to_numpy()
    sides = np.minimum(table["width"].to_numpy(), table["height"].to_numpy())
    words = _numbers(table, "words")
    scores = _numbers(table, "aesthetic_mean")
    return Statistics(
        clips=table.num_rows,
        hours=round(float(seconds.sum()) / 3600, 6),
        categories=dict(Counter(name or "" for name in table["category"].to_pylist()).most_common()),
        durations=_counts(seconds / BIN_SECONDS, int(LONGEST / BIN_SECONDS) + 1),
        words=_counts(words, MOST_WORDS + 2),
        captioned=len(words),
        aesthetic=(
            int((scores < AESTHETIC_EDGES[0]).sum()),
            int(((scores >= AESTHETIC_EDGES[0]) & (scores <= AESTHETIC_EDGES[1])).sum()),
            int((scores > AESTHETIC_EDGES[1]).sum()),
        ),
        sides=np.bincount(np.searchsorted(SIDES, sides, side="right"), minlength=len(SIDE_NAMES)).tolist(),
    )


def cutting(out: Path, units: Sequence[Unit]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many clips are copies and how many were encoded, and why the latter were; a clip may have several."""
    methods: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for unit in units:
        if found := unit_columns(out, unit.name, {"cut": ["method", "why"]}):
            methods.update(found[0]["method"].to_pylist())
            reasons.update(why for own in found[0]["why"].to_pylist() for why in own or ())
    return dict(methods.most_common()), dict(reasons.most_common())


def refused(out: Path) -> dict[str, dict[str, list[str]]]:
    """Return what each stage refused: for each stage and reason, "name: details" of each film or clip.

    Raises:
        DataError: a list is damaged.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((out / "rejected").glob("*/*.jsonl")):
        for item in read_rejected(path):
            told = f"{item.name}: {item.detail}" if item.detail else item.name
            found.setdefault(path.parent.name, {}).setdefault(item.reason, []).append(told)
    return found


def as_json(values: Mapping[str, Any]) -> str:
    """Return numbers as the text of report.json."""
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _numbers(table: "pa.Table", name: str) -> np.ndarray:
    """Return the values of a column that are there, float64; none where the column is missing."""
    if name not in table.column_names:
        return np.empty(0)
    return np.asarray(table[name].drop_null().to_numpy(), np.float64)


def _counts(values: np.ndarray, bins: int) -> list[int]:
    """Return how many values lie in [i, i + 1) for each bin; the last bin takes all that are larger."""
    return np.bincount(np.minimum(values.astype(np.int64), bins - 1), minlength=bins).tolist()
