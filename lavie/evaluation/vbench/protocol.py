"""What is measured in a dimension, as data: the number and its protocol's hash stand in the same JSON."""

from typing import Literal

from ...config.base import Strict
from ..measured import short_hash
from .dimensions import OURS
from .encoders import FramePath
from .pixels import BLOCK, CERTAIN, REACH, SHORT_SIDE, TOP, UNIT
from .suite import SAMPLES

CODE = 1
"""Raised when the same protocol would give other numbers than before."""
BLEND = OURS + "blend"
PROMPTS_OF = {
    "temporal_flickering": "temporal_flickering",
    BLEND: "motion_smoothness",
    "subject_consistency": "subject_consistency",
    "background_consistency": "background_consistency",
}
"""What can be scored, and the dimension of VBench whose prompts its clips show."""
BY_FRAMES = ("subject_consistency", "background_consistency")
"""Dimensions in which a clip weighs as many times as it has frames after the first."""


class Network(Strict):
    """A network of a protocol."""

    name: str
    sha256: str
    path: FramePath


class MotionSearch(Strict):
    """How displacements are found (`pixels.displacements`)."""

    block: int = BLOCK
    reach: int = REACH
    short_side: int = SHORT_SIDE
    certain: float = CERTAIN
    told_at: int = UNIT
    top: float = TOP


class Protocol(Strict):
    """What is measured in one dimension, from files to the number."""

    dimension: str
    prompts_sha256: str | None
    """The hash of VBench's prompts; null where every clip of a folder counts."""
    prompts_of: str | None
    """The dimension whose prompts the clips show."""
    samples: int = SAMPLES
    """Clips of each prompt, numbered from 0."""
    weighting: Literal["clips", "frames"]
    network: Network | None
    motion: MotionSearch = MotionSearch()

    @property
    def hash(self) -> str:
        """The first 16 digits of the SHA-256 of everything that moves a number."""
        content = {"code": CODE, **self.model_dump(mode="json")}
        return short_hash(content)
