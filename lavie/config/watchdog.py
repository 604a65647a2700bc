"""The section `watchdog`: how long a rank may be at one thing before the run counts as hung."""

from pydantic import Field

from .base import Strict

MARGIN = 120.0
"""Seconds by which a collective may outlast the longest limit, so that the diagnosis comes before its own error."""


class WatchdogConfig(Strict):
    """Seconds that a rank may be at one thing, 0 for no limit. Past it the run names who hangs, and where, and ends.

    The exit code tells the cause: launch/README.md.
    """

    start: float = Field(1800, ge=0)
    """All before the first step: reading indices, weights and checkpoints. Default: 14 GiB over a busy network disk."""
    first_step: float = Field(1800, ge=0)
    """A micro-batch of the first step of a start, in which kernels are compiled. Default: many kernels, slow cores."""
    step: float = Field(600, ge=0)
    """A micro-batch of a later step: forward, backward and update. Default: far more than any should take."""
    data: float = Field(600, ge=0)
    """The wait for a micro-batch. Default: five times data.timeout, after which a worker is replaced."""
    save: float = Field(1800, ge=0)
    """A checkpoint. Default: 14 GiB to a slow disk."""
    validation: float = Field(1800, ge=0)
    """The validation loss, with the gathering of the averaged weights. Default: minutes, with a wide margin."""
    sampling: float = Field(7200, ge=0)
    """The drawing of all validation prompts, or of the samples that `eval` measures. Default: an hour, twice."""
    between: float = Field(600, ge=0)
    """What is between these: writing the metrics, and agreeing whether to stop. Default: as for a step."""

    @property
    def longest(self) -> float:
        """Seconds that a collective may have to wait for a rank that is within its limits; 0 without limits."""
        limits = [float(getattr(self, name)) for name in type(self).model_fields]
        return max(limits) + MARGIN if any(limits) else 0.0
