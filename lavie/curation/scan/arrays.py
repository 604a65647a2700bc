"""The cheap values of every frame, from a picture 256 pixels wide: colour, light, sharpness and motion."""

from typing import Any

import numpy as np

WIDTH = 256
"""The width in pixels of the picture that is measured; all thresholds were found at it."""
DARK, BRIGHT = 16, 240
"""Luma below which a pixel counts as dark, and above which it counts as bright; 0 to 255."""
GRID = 4
"""Flow is averaged over every so many pixels across and down: DIS computes it at a quarter of the size."""
NAMES = ("diff", "luma", "dark", "bright", "step", "sharp", "flow", "flow_p95")
"""The values of a frame.

diff: mean absolute difference of hue, saturation and value (OpenCV's, 0 to 255) from the frame before; luma: mean,
0 to 255; dark, bright: shares of pixels; step: mean absolute difference of luma from the frame before; sharp: variance
of the Laplacian of luma; flow, flow_p95: mean and 95th percentile of the length of optical flow (DIS, ultrafast) from
the frame before, over the picture's diagonal. The first frame has no difference and no flow: 0.
"""


class FrameValues:
    """Measures frames one after the other; frames of one size only."""

    def __init__(self) -> None:
        """Imports OpenCV, which works in one thread from here on."""
        import cv2

        cv2.setNumThreads(1)
        self._cv: Any = cv2  # its stubs leave optical flow out
        self._flow = self._cv.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._hsv: Any = None
        self._luma: Any = None

    def measure(self, pixels: np.ndarray) -> tuple[float, ...]:
        """Return the values of the next frame, in the order of NAMES.

        Args:
            pixels: uint8 (H, W, 3), RGB.
        """
        cv = self._cv
        hsv, luma = cv.cvtColor(pixels, cv.COLOR_RGB2HSV), cv.cvtColor(pixels, cv.COLOR_RGB2GRAY)
        diff = step = flow = fastest = 0.0
        if self._luma is not None:
            diff = cv.norm(hsv, self._hsv, cv.NORM_L1) / hsv.size
            step = cv.norm(luma, self._luma, cv.NORM_L1) / luma.size
            moved = self._flow.calc(self._luma, luma, None)[GRID // 2 :: GRID, GRID // 2 :: GRID]
            lengths = np.hypot(moved[..., 0], moved[..., 1]).ravel() / np.hypot(*luma.shape)
            place = int(0.95 * (lengths.size - 1))
            flow, fastest = float(lengths.mean()), float(np.partition(lengths, place)[place])
        self._hsv, self._luma = hsv, luma

        dark, bright = np.count_nonzero(luma < DARK), np.count_nonzero(luma > BRIGHT)
        _, deviation = cv.meanStdDev(cv.Laplacian(luma, cv.CV_16S))
        sharp = float(deviation[0, 0]) ** 2
        return diff, float(luma.mean()), dark / luma.size, bright / luma.size, step, sharp, flow, fastest
