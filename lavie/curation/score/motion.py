"""The stage `motion`: what the scan measured of every frame, for each clip. Nothing is decoded.

The scan measured whole frames, black bars included: of a clip whose bars are cropped, the bars count as dark still.
"""

from typing import Any

import numpy as np

from ...config.curate_score import MotionConfig
from ..scan.stage import FROZEN
from ..stage import Done, Stage
from ..unit import Unit

COLUMNS = {
    "clip": "string",
    "luma": "float",
    "dark": "float",
    "bright": "float",
    "diff": "float",
    "frozen": "float",
    "sharp": "float",
    "flow_mean": "float",
    "flow_p95": "float",
}
"""luma: mean, 0 to 255; dark, bright: mean shares of pixels; sharp: median of the frames' variance of the Laplacian. Of
the steps from frame to frame within the clip, diff: mean difference of colours, 0 to 255; frozen: share that show the
same picture again; flow_mean, flow_p95: means of the frames' mean and 95th percentile of flow, in picture diagonals. A
clip of one frame has no step: null. See `scan.arrays.NAMES` for the values of frames."""


def clip_values(arrays: dict[str, np.ndarray], start: int, end: int) -> dict[str, float | None]:
    """Return the values of the clip of frames [start, end) of a film with these values of frames."""

    def mean(name: str, first: int) -> float | None:
        """Return the mean of an array from a frame on, in float64."""
        part = arrays[name][first:end]
        return float(part.mean(dtype=np.float64)) if len(part) else None

    steps = arrays["step"][start + 1 : end]  # that into the first frame is from another clip
    return {
        "luma": mean("luma", start),
        "dark": mean("dark", start),
        "bright": mean("bright", start),
        "diff": mean("diff", start + 1),
        "frozen": float((steps < FROZEN).mean()) if len(steps) else None,
        "sharp": float(np.median(arrays["sharp"][start:end].astype(np.float64))),
        "flow_mean": mean("flow", start + 1),
        "flow_p95": mean("flow_p95", start + 1),
    }


def work(unit: Unit, config: MotionConfig) -> Done:
    """Gather the values of a unit's clips."""
    frames = unit.frames()
    film, arrays = "", {}
    rows: list[dict[str, Any]] = []
    for clip in unit.read("cut", ["clip", "film", "start", "end"]).to_pylist():
        if clip["film"] != film:
            film, arrays = clip["film"], frames[clip["film"]]
        rows.append({"clip": clip["clip"]} | clip_values(arrays, clip["start"], clip["end"]))
    return Done({name: [row[name] for row in rows] for name in COLUMNS})


MOTION = Stage("motion", 1, ("scan", "cut"), MotionConfig, COLUMNS, work=work)
