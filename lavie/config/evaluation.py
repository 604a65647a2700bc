"""The section `eval`: what is measured of samples while a run trains."""

from pydantic import Field, model_validator

from .base import OptionalPath, Strict


class EvalConfig(Strict):
    """Sets of samples against the held-out clips, measured while the run trains. It changes no loss and no weight.

    The numbers follow a run; they are none to publish, for so few clips are mostly bias. `lavie eval fvd` measures.
    """

    steps: int | None = Field(None, ge=1)
    """Steps between two evaluations; the last step is evaluated too. Default: null, none."""
    num_clips: int = Field(64, ge=8)
    """Held-out clips, whose captions are drawn too: their number over all ranks, rounded up to whole batches. Default:
    enough for a mean of the kernel distance, and some minutes of sampling."""
    weights: OptionalPath = None
    """I3D of Kinetics-400 as .safetensors, for the Fréchet and the kernel distance of clips of nine frames or more.
    Default: null, neither."""
    extractor: OptionalPath = None
    """A TorchScript module in place of I3D, (B, 3, F, 224, 224) in [-1, 1] -> (B, D), which runs as code. Default:
    null."""
    clip: OptionalPath = None
    """A CLIP folder of transformers with its tokenizer, for CLIPSIM: how well samples show their captions. Default:
    null."""

    @model_validator(mode="after")
    def _check(self) -> "EvalConfig":
        """Check that an evaluation has something to measure by."""
        if self.weights and self.extractor:
            raise ValueError("weights and extractor are both set: give one of them")
        if self.steps and not (self.weights or self.extractor or self.clip):
            raise ValueError("steps is set, and nothing to measure by: set weights (I3D), extractor or clip")
        return self
