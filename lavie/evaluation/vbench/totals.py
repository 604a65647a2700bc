"""VBench's quality, semantic and total scores, from the scores of its dimensions."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...json_text import read_json
from .dimensions import DIMENSIONS, QUALITY_WEIGHT, SEMANTIC_WEIGHT

LAYOUT = 'wanted {"subject_consistency": [0.9141, [...]], ...} as VBench writes it, or percentages as in tables'
"""What a file of scores looks like."""
ONE = 1.001
"""The largest fraction: sums of rounded numbers may pass 1."""


@dataclass(frozen=True)
class Totals:
    """What VBench's table shows of a model. Scores are fractions; `to_json` has percentages."""

    scores: Mapping[str, float]
    """The scores of the dimensions that were given, before they are normalised."""
    normalised: Mapping[str, float]
    """The normalised scores of all dimensions; a missing one is 0 before it is normalised."""
    quality: float
    semantic: float
    total: float

    @property
    def missing(self) -> list[str]:
        """The dimensions that were not given, in VBench's order."""
        return [name for name in DIMENSIONS if name not in self.scores]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON holds it, in percent as the tables of papers have it."""
        return {
            "quality": 100 * self.quality,
            "semantic": 100 * self.semantic,
            "total": 100 * self.total,
            "missing": self.missing,
            "scores": {name: 100 * value for name, value in self.scores.items()},
            "normalised": {name: 100 * value for name, value in self.normalised.items()},
        }


def totals(scores: Mapping[str, float]) -> Totals:
    """Return the totals of scores by dimension, fractions, as VBench's `cal_final_score.py` has them.

    A missing dimension counts as a score of 0 before it is normalised, so it may count as less than 0 after.
    """
    normalised = {name: dimension.normalised(scores.get(name, 0.0)) for name, dimension in DIMENSIONS.items()}

    def mean(group: str) -> float:
        """The weighted mean of a group."""
        weights = {name: dimension.weight for name, dimension in DIMENSIONS.items() if dimension.group == group}
        return sum(weight * normalised[name] for name, weight in weights.items()) / sum(weights.values())

    quality, semantic = mean("quality"), mean("semantic")
    total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    given = {name: scores[name] for name in DIMENSIONS if name in scores}
    return Totals(given, normalised, quality, semantic, total)


def read_scores(paths: Iterable[Path]) -> tuple[dict[str, float], list[str]]:
    """Return the scores of files by dimension, as fractions, and the names in them that are no dimension of VBench.

    A file is VBench's `*_eval_results.json`, of which the first value of each list counts; or an object of numbers,
    which are fractions, or percentages if one of them is above 1; or of texts such as "91.41%".

    Raises:
        DataError: a file is no such thing, has two units, or two files disagree on a dimension.
    """
    scores: dict[str, float] = {}
    origin: dict[str, Path] = {}
    other: list[str] = []
    for path in paths:
        content = _by_name(path)
        other += [name for name in content if name not in DIMENSIONS]
        known = {name: value for name, value in content.items() if name in DIMENSIONS}
        for name, score in _fractions(known, path).items():
            if scores.setdefault(name, score) != score:
                raise DataError(f"{name} is {scores[name]:.6g} in {origin[name]} and {score:.6g} in {path}: leave one")
            origin[name] = path
    if not scores:
        raise DataError(f"{', '.join(map(str, paths))}: no dimension of VBench; {LAYOUT}")
    return scores, other


def _by_name(path: Path) -> dict[str, Any]:
    """Return the values of a file by names as VBench's files have them; of a list, its first value."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: {LAYOUT}")
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = key.strip().lower().replace(" ", "_")
        if name in found:
            raise DataError(f"{path}: {name} stands there twice, in two spellings: leave one")
        found[name] = value[0] if isinstance(value, list) and value else value
    return found


def _fractions(values: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Return the values of a file as fractions. Raises DataError where one is none, or its unit is in doubt."""
    texts = {name: value.strip() for name, value in values.items() if isinstance(value, str)}
    percent = {name: _number(name, text[:-1], path) for name, text in texts.items() if text.endswith("%")}
    numbers = {name: _number(name, value, path) for name, value in values.items() if name not in percent}
    above = [name for name, value in numbers.items() if value > ONE]
    within = [name for name, value in numbers.items() if 0 < value <= ONE]
    if above and within:
        raise DataError(
            f"{path}: {above[0]} is {numbers[above[0]]:.6g} and {within[0]} {numbers[within[0]]:.6g}: fractions or "
            'percentages? Write percentages as texts, "0.5%"'
        )
    if above:
        percent, numbers = percent | numbers, {}
    for name, value in percent.items():
        if not 0 <= value <= 100:
            raise DataError(f"{path}: {name} is {value:.6g}: wanted 0 to 1, or 0 to 100 in percent")
    return {name: percent[name] / 100 if name in percent else numbers[name] for name in values}


def _number(name: str, value: Any, path: Path) -> float:
    """Return a finite number that is not negative. Raises DataError for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DataError(f"{path}: {name} is {str(value)[:60]}; {LAYOUT}")
    return number
