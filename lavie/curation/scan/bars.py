"""Black bars of a film: rows and columns that are dark in all of its frames, in pairs of one width.

1. A line is dark if at most 1 % of its pixels are above luma 24, in each of 32 to 63 frames spread over the film.
2. The dark lines at two opposite sides are bars if each side has at least 4 and they differ by at most 4.
3. Next to them the film must be lit: 10 % of the pixels of the line just inside are above luma 32, on both sides.
"""

import numpy as np

DARK, LIT = 24, 32
"""Luma, 0 to 255: up to which a pixel counts as black, and above which it counts as lit."""
DARK_SHARE, LIT_SHARE = 0.99, 0.10
"""Shares of the pixels of a line."""
LEAST, TOLERANCE = 4, 4
"""The least width of a bar in pixels, and how far the two of a pair may differ."""
KEPT = 32
"""Frames that are looked at: from so many to twice as many, whatever the length of the film."""


class Bars:
    """Looks at frames spread evenly over a film whose length is not known before its end."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._every = 1
        self._seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def wants(self, number: int) -> bool:
        """Return whether frame `number` is to be looked at, counted from 0."""
        return number % self._every == 0

    def add(self, luma: np.ndarray) -> None:
        """Look at a frame that is wanted: uint8 (H, W), 0 to 255."""
        above, lit = luma > DARK, luma > LIT
        self._seen.append((above.mean(1), above.mean(0), lit.mean(1), lit.mean(0)))
        if len(self._seen) == 2 * KEPT:
            self._seen = self._seen[::2]
            self._every *= 2

    def box(self) -> tuple[int, int, int, int] | None:
        """Return what lies within the bars, x, y, width and height in pixels; None if there are no bars."""
        rows, columns, lit_rows, lit_columns = (np.array([seen[i] for seen in self._seen]) for i in range(4))
        top, bottom = _pair(rows, lit_rows)
        left, right = _pair(columns, lit_columns)
        if not (top or left):
            return None
        return left, top, columns.shape[1] - left - right, rows.shape[1] - top - bottom


def _pair(above: np.ndarray, lit: np.ndarray) -> tuple[int, int]:
    """Return the widths of the bars at the two ends of an axis, 0 and 0 if there are none.

    Args:
        above: float (frames, lines), the share of each line that is not black.
        lit: float (frames, lines), the share that is lit.
    """
    is_picture = above.max(0) > 1 - DARK_SHARE
    if not is_picture.any():
        return 0, 0
    first, last = int(is_picture.argmax()), len(is_picture) - 1 - int(is_picture[::-1].argmax())
    before, after = first, len(is_picture) - 1 - last
    if min(before, after) < LEAST or abs(before - after) > TOLERANCE:
        return 0, 0
    is_lit = lit.max(0) >= LIT_SHARE
    return (before, after) if is_lit[first] and is_lit[last] else (0, 0)
