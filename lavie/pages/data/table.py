"""The samples of a dataset as a table that is filtered and sorted."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field

from ...config.base import Strict
from ...data.shards.index import Index
from ...data.shards.index_file import Sample
from ...errors import ConfigError

SHOWN = 60
"""Samples that are sent at once."""
MOST = 1_000_000
"""Samples that a page looks through; of larger sets it takes the first ones, and says so."""


class Query(Strict):
    """What is looked for."""

    model_config = ConfigDict(strict=True)

    words: str = Field("", max_length=1000)
    """Words that caption or key hold, all of them, in any case and order; -word must not be there."""
    kind: str = Field("", pattern="^(video|image|)$")
    """video or image; empty for both."""
    low: dict[str, float] = Field(default_factory=dict)
    """Least values of columns."""
    high: dict[str, float] = Field(default_factory=dict)
    """Largest values of columns."""
    marked: bool = False
    """Whether only samples that are left out are wanted."""
    sort: str = ""
    """The column that decides the order; empty for that of the shards."""
    descending: bool = False
    """Whether the largest come first."""
    offset: int = Field(0, ge=0)
    """How many samples are passed over."""


class SampleTable:
    """The samples, their columns, and what is found in them."""

    def __init__(self, index: Index, scores: Mapping[tuple[str, str], Mapping[str, float]] | None = None) -> None:
        """Take the first MOST samples of an index.

        Args:
            index: of the dataset.
            scores: numbers of samples by shard and key; each name becomes a column.
        """
        self.index, self.total = index, len(index)
        self.count = min(self.total, MOST)
        first = slice(0, self.count)
        width, height = index.column("width")[first], index.column("height")[first]
        self.columns: dict[str, np.ndarray] = {
            "side": np.minimum(width, height).astype(float),
            "frames": index.column("frames")[first].astype(float),
            "fps": index.column("fps")[first],
            "seconds": index.column("duration")[first],
            "kilobytes": index.column("size")[first] / 1000,
        }
        self.columns |= self._score_columns(scores or {})
        self._videos = min(len(index.videos), self.count)

    def _score_columns(self, scores: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, np.ndarray]:
        """Return a column for each name of a score: NaN where a sample has none."""
        names = sorted({name for numbers in scores.values() for name in numbers} - self.columns.keys())
        found = {name: np.full(self.count, np.nan) for name in names}
        if names:
            shards, column = self.index.shards, self.index.column("shard")
            for place, key in zip(range(self.count), self.index.sample_keys(), strict=False):
                for name, value in scores.get((shards[column[place]], key), {}).items():
                    if name in found:
                        found[name][place] = value
        return found

    @cached_property
    def _texts(self) -> list[str]:
        """Key and caption of each sample in lower case."""
        return [f"{sample.key}\n{sample.caption}".casefold() for sample in (self.index[i] for i in range(self.count))]

    @cached_property
    def keys(self) -> list[str]:
        """The key of each sample."""
        return [key for _, key in zip(range(self.count), self.index.sample_keys(), strict=False)]

    def find(self, query: Query, marked: frozenset[str] = frozenset()) -> np.ndarray:
        """Return the numbers of the samples that are wanted, in order: int64 (n,).

        Args:
            query: what is looked for.
            marked: the keys of samples that are left out.

        Raises:
            ConfigError: there is no such column.
        """
        names = {*query.low, *query.high, *([query.sort] if query.sort else [])}
        if unknown := sorted(names - self.columns.keys()):
            raise ConfigError(f"there is no column {unknown[0]}: wanted one of {', '.join(self.columns)}")
        wanted = np.ones(self.count, bool)
        if query.kind:
            wanted[self._videos :] = query.kind == "image"
            wanted[: self._videos] = query.kind == "video"
        # A sample without a value of a column, NaN, is in no range of it.
        for name, value in query.low.items():
            wanted &= self.columns[name] >= value
        for name, value in query.high.items():
            wanted &= self.columns[name] <= value
        if query.marked:
            wanted &= np.fromiter((key in marked for key in self.keys), bool, self.count)
        found = np.flatnonzero(wanted)
        for word in re.split(r"\s+", query.words.casefold().strip()):
            absent, word = word.startswith("-") and len(word) > 1, word.removeprefix("-") if len(word) > 1 else word
            if word:
                found = np.array([i for i in found if (word in self._texts[i]) != absent], np.int64)
        if query.sort:
            values = self.columns[query.sort][found]
            order = np.argsort(-values if query.descending else values, kind="stable")
            found = found[order]  # NaN comes last in both
        return found

    def told(self, number: int) -> dict[str, Any]:
        """Return what a page shows of a sample, as JSON values."""
        sample = self.index[number]
        values = {name: float(column[number]) for name, column in self.columns.items()}
        return told(sample) | {
            "number": number,
            "columns": {name: round(value, 4) for name, value in values.items() if np.isfinite(value)},
        }


def told(sample: Sample) -> dict[str, Any]:
    """Return what identifies a sample, as JSON values."""
    return {
        "key": sample.key,
        "kind": sample.kind,
        "caption": sample.caption,
        "shard": sample.shard.rpartition("/")[2],
        "size": [sample.frames, sample.height, sample.width],
    }
