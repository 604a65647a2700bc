"""The section `profile`: which steps of a run are recorded operation by operation."""

from typing import Literal

from pydantic import Field

from .base import Strict


class ProfileConfig(Strict):
    """Steps that PyTorch's profiler records, into output_dir/profile: a trace, a table and a picture.

    Recording makes these steps slower, and changes nothing of what is trained.
    """

    start: int = Field(10, ge=1)
    """The first step that is recorded, counted from 1. Default: kernels are compiled and memory is laid out by then,
    and ZeRO-3 knows the order of the modules."""
    steps: int = Field(0, ge=0, le=100)
    """How many steps are recorded; a few fill megabytes. Default: 0, none, which costs nothing."""
    ranks: Literal["first", "all"] = "first"
    """Whose steps are recorded: those of rank 0, or of every rank, each into files of its own. Default: first, as ranks
    do the same."""

    def holds(self, step: int) -> bool:
        """Return whether a step, counted from 1, is recorded."""
        return self.start <= step < self.start + self.steps
