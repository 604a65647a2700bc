"""The sixteen dimensions of VBench, and the constants by which their scores become totals.

Source: `scripts/constant.py` of VBench (Apache-2.0), and Huang et al., CVPR 2024.
"""

from dataclasses import dataclass
from typing import Literal

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
"""What quality and semantic weigh in the total."""


@dataclass(frozen=True)
class Dimension:
    """One of the sixteen things that VBench scores."""

    group: Literal["quality", "semantic"]
    low: float = 0.0
    """The score that counts as 0 in a total."""
    high: float = 1.0
    """The score that counts as 1 in a total."""
    weight: float = 1.0
    """Its weight among those of its group."""

    def normalised(self, score: float) -> float:
        """Return a score on the scale from `low` (0) to `high` (1). As in VBench it may lie outside."""
        return (score - self.low) / (self.high - self.low)


DIMENSIONS = {
    "subject_consistency": Dimension("quality", low=0.1462),
    "background_consistency": Dimension("quality", low=0.2615),
    "temporal_flickering": Dimension("quality", low=0.6293),
    "motion_smoothness": Dimension("quality", low=0.706, high=0.9975),
    "dynamic_degree": Dimension("quality", weight=0.5),
    "aesthetic_quality": Dimension("quality"),
    "imaging_quality": Dimension("quality"),
    "object_class": Dimension("semantic"),
    "multiple_objects": Dimension("semantic"),
    "human_action": Dimension("semantic"),
    "color": Dimension("semantic"),
    "spatial_relationship": Dimension("semantic"),
    "scene": Dimension("semantic", high=0.8222),
    "appearance_style": Dimension("semantic", low=0.0009, high=0.2855),
    "temporal_style": Dimension("semantic", high=0.364),
    "overall_consistency": Dimension("semantic", high=0.364),
}
"""By the names that VBench's files have, in the order of its tables."""
OURS = "lavie_"
"""The beginning of names that are not VBench's: what this project measures in a like way, which no total counts."""
