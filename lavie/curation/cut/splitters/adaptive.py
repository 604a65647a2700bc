"""The splitter `adaptive`: PySceneDetect's AdaptiveDetector, which compares a frame with those around it."""

from collections.abc import Mapping

import numpy as np

from .base import Pictures, Transition, hard_cuts
from .pyscenedetect import detected_cuts, load


class Adaptive:
    """The splitter: a cut where the difference from the frame before is a multiple of those around it."""

    def __init__(self, threshold: float = 3.0) -> None:
        """PySceneDetect must be installed.

        Args:
            threshold: the multiple of the mean of the two differences on each side. Default: PySceneDetect's.
        """
        load()
        self._threshold = threshold

    def transitions(self, values: Mapping[str, np.ndarray], pictures: Pictures) -> list[Transition]:
        """Return the cuts of a film."""
        return hard_cuts(detected_cuts("AdaptiveDetector", values["diff"], adaptive_threshold=self._threshold))
