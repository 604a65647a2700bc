"""The settings of `lavie curate score`: one section for each of its stages, and one for scorers of other packages."""

from typing import Any

from pydantic import Field, model_validator

from .base import OptionalPath, Strict

SCORER = "score-"
"""What the names of the stages of other packages' scorers begin with."""


class MotionConfig(Strict):
    """Motion, light and sharpness of each clip, from the values that the scan kept of every frame."""


class HashConfig(Strict):
    """The perceptual hash of each clip, and what is laid over all shots of a film."""


class TextConfig(Strict):
    """Text in the picture."""

    ocr: bool = False
    """Whether it is looked for (`lavie[ocr]`): 0.3 s a clip of one core."""


class ClipConfig(Strict):
    """Embeddings of each clip by a CLIP on the disk, and aesthetic ratings by a head on them."""

    model: OptionalPath = None
    """A CLIP folder of transformers, or one of OpenAI's .pt files; the heads want ViT-L/14. Default: null, clips have
    no embeddings."""
    head: OptionalPath = None
    """LAION's linear head or sac+logos+ava1, a .pth. Default: null, clips have no rating."""
    decoders: int = Field(1, ge=1)
    """Processes that decode for one network. It changes no value; a GPU wants as many as there are cores for it."""

    @model_validator(mode="after")
    def _check(self) -> "ClipConfig":
        """Check that a head has what it rates."""
        if self.head and not self.model:
            raise ValueError("head rates the embeddings of a CLIP: set model (--clip) too")
        return self


class ScorerConfig(Strict):
    """A scorer of another package (see `lavie.curation.score.plugins`)."""

    options: dict[str, Any] = Field(default_factory=dict)
    """What the scorer is made with, by name."""
