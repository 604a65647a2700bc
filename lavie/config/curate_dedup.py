"""The settings of `lavie curate dedup`."""

from pydantic import Field

from .base import Strict


class DedupConfig(Strict):
    """Clips that show what a better clip shows."""

    distance: float = Field(0.15, ge=0, le=0.2)
    """The most bits, as a share, in which the hashes of duplicates differ. The same pictures encoded anew, made smaller
    or brighter differ in up to 0.12, different pictures in 0.3 and more; 0.2 takes six times as long as 0.15."""
    similar: float | None = Field(None, gt=0, le=1)
    """The least cosine between the mean embeddings of similar clips, as 0.95; needs clip.model. Default: null, similar
    clips are not looked for."""
    clusters: int | None = Field(None, ge=1)
    """Similar clips are looked for within so many clusters. Default: null, one for each 1000 clips."""
    aesthetic: bool | None = None
    """Whether of two duplicates of one size the one with the higher rating is kept. Default: null, if clips have
    ratings, that is if clip.model and clip.head are set."""
