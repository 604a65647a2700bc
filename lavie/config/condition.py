"""Which frames of a clip are given to a base network that takes frames, and how often."""

from pydantic import Field, model_validator

from .base import Strict


class GivenConfig(Strict):
    """How often which frames of a training clip are given. The four shares count relative to their sum.

    One network then draws from text alone, starts from an image, goes on from the end of a clip, and finds the way from
    one frame to another. The forms are those of SEINE (Chen et al., 2024).
    """

    none: float = Field(0.30, ge=0)
    """Share of clips of which no frame is given: text to video. Default: enough that it is not forgotten."""
    first: float = Field(0.40, ge=0)
    """Share of clips of which the first frames are given, 1 to `most_first`, all numbers equally often: an image that
    begins to move (paper, section 5.6), or a clip that goes on. Default: the largest, as it serves most uses."""
    first_and_last: float = Field(0.15, ge=0)
    """Share of clips of which the first and the last frame are given: a transition, or a loop. Default: half of what is
    left."""
    random: float = Field(0.15, ge=0)
    """Share of clips of which any frames are given, from one to all but one, all numbers equally often. Default: the
    rest."""
    most_first: int = Field(4, ge=1)
    """The most first frames that are given; in shorter clips all but the last. Default: 4, of which the network can
    read speed and acceleration, where a single frame shows neither."""

    @model_validator(mode="after")
    def _check(self) -> "GivenConfig":
        """Check that a share is above 0."""
        if not self.none + self.first + self.first_and_last + self.random:
            raise ValueError("none, first, first_and_last and random are all 0: wanted one above 0")
        return self
