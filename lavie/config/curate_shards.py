"""The settings of `lavie curate shards`."""

import itertools

from pydantic import Field, model_validator

from .base import Strict

SHARD_BYTES = 1 << 30
"""Bytes of a shard by default: 25 million clips of 2 MB make 47,000 files."""


class ShardsConfig(Strict):
    """How the selected clips are written as shards for training."""

    shard_bytes: int = Field(SHARD_BYTES, ge=1 << 16)
    """Bytes at which a shard is closed. Default: 1 GiB."""
    grade_by: str = ""
    """A column, as aesthetic_mean, by whose value clips go to folders of their own, so that data.train can give each
    grade a weight that changes with the steps. Default: none, all shards lie in one folder."""
    grade_edges: tuple[float, ...] = ()
    """Ascending values of grade_by that part one grade from the next; a clip at an edge is in the upper grade."""

    @model_validator(mode="after")
    def _check(self) -> "ShardsConfig":
        """Check that grades have a column and ascending edges."""
        if bool(self.grade_by) != bool(self.grade_edges):
            missing = "grade_edges" if self.grade_by else "grade_by"
            raise ValueError(f"grades need both grade_by and grade_edges: {missing} is not given")
        if any(a >= b for a, b in itertools.pairwise(self.grade_edges)):
            raise ValueError(f"grade_edges are {list(self.grade_edges)}: wanted ascending ones")
        return self
