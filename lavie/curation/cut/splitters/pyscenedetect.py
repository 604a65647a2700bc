"""PySceneDetect's detectors, which decide by the values of the scan in place of frames that they would decode again.

ContentDetector scores a frame by the mean difference of hue, saturation and value, which is the scan's `diff`.
PySceneDetect scales frames otherwise, by OpenCV and not from YUV, so that scores differ by rounding.
"""

from typing import Any

import numpy as np

from ....errors import ConfigError

FPS = 25.0
"""The rate that PySceneDetect is told; it decides nothing, since lengths are given in frames."""


def detected_cuts(detector: str, diff: np.ndarray, **options: Any) -> list[int]:
    """Return the first frame of every shot but the first.

    Args:
        detector: the name of a detector of PySceneDetect that scores frames as ContentDetector does.
        diff: (F,), the difference of each frame from the one before it; 0 for the first.
        options: of the detector.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    detectors = load()
    from scenedetect import FrameTimecode

    class Scored(getattr(detectors, detector)):  # type: ignore[misc]
        """The detector, with the score of a frame in place of its picture."""

        def _calculate_frame_score(self, timecode: Any, frame_img: Any) -> float:
            return float(frame_img)

    scored = Scored(**options)
    cuts: list[int] = []
    for number, score in enumerate(diff):
        cuts += [int(cut.frame_num) for cut in scored.process_frame(FrameTimecode(number, FPS), score)]
    return cuts


def load() -> Any:
    """Return the module of PySceneDetect's detectors.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from scenedetect import detectors
    except ImportError:
        raise ConfigError(
            "the splitters content and adaptive need PySceneDetect: pip install 'lavie[curate]', or cut.splitter=sharp"
        ) from None
    return detectors
