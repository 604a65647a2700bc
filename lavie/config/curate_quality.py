"""The settings of `lavie curate quality`, the section `quality` of a curation's YAML."""

from pydantic import Field, model_validator

from .base import Strict


class QualityConfig(Strict):
    """Which of the selected clips make the set of the best, with which training ends (paper 5.2)."""

    count: int = Field(2000, ge=1)
    """The number of clips, about that of the paper's set."""
    columns: tuple[str, ...] = Field(("aesthetic_min", "clip_score"), min_length=1)
    """The scores by which clips are ranked, more is better. A further column for how well text and video agree, by
    another model than `clip_score`, is added here."""
    percentile: float = Field(80.0, ge=0, lt=100)
    """A clip has to be at or above this percentile of the selected clips in every one of the scores."""
    per_film: int = Field(2, ge=1)
    """The most clips of one film."""

    @model_validator(mode="after")
    def _check(self) -> "QualityConfig":
        """Check that no score counts twice."""
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise ValueError(f"columns names {twice[0]} twice")
        return self
