"""The splitter `content`: PySceneDetect's ContentDetector, with the default of the tool that the paper names."""

from collections.abc import Mapping

import numpy as np

from .base import Pictures, Transition, hard_cuts
from .pyscenedetect import detected_cuts, load


class Content:
    """The splitter: a cut where the difference from the frame before reaches a threshold; close ones are merged."""

    def __init__(self, threshold: float = 27.0) -> None:
        """PySceneDetect must be installed.

        Args:
            threshold: mean difference of hue, saturation and value, 0 to 255. Default: PySceneDetect's.
        """
        load()
        self._threshold = threshold

    def transitions(self, values: Mapping[str, np.ndarray], pictures: Pictures) -> list[Transition]:
        """Return the cuts of a film."""
        return hard_cuts(detected_cuts("ContentDetector", values["diff"], threshold=self._threshold))
