"""The stage `text`: words in the middle frame of each clip, read by RapidOCR, whose wheel holds PP-OCR's weights."""

import functools
from typing import Any

import numpy as np

from ...config.curate_score import TextConfig
from ...errors import ConfigError
from ..pictures import look_at_clips
from ..stage import Done, Stage
from ..unit import Unit

SCORE = 0.6
"""The least score of a text that counts, 0 to 1."""
LETTERS = 3
"""The fewest letters and digits of a text that counts. Boxes alone do not: of pictures without text they fill 21 %."""

COLUMNS = {"clip": "string", "text_area": "float", "text": "list<string>"}
"""text_area: the share of the picture within the boxes of texts, together at most 1; text: the texts from the top. Both
null if the clip cannot be decoded."""


def work(unit: Unit, config: TextConfig) -> Done:
    """Read the clips of a unit; one that cannot be decoded is refused by name, and its columns are null."""
    read = _reader()
    clips, rejected = [], []
    areas: list[float | None] = []
    texts: list[list[str] | None] = []
    for look in look_at_clips(unit, lambda frames: [frames // 2]):
        clips.append(look.row["clip"])
        if look.pictures is None:
            assert look.rejected is not None
            rejected.append(look.rejected)
            areas.append(None)
            texts.append(None)
            continue
        area, found = text_of(look.pictures[0], read)
        areas.append(area)
        texts.append(found)
    return Done({"clip": clips, "text_area": areas, "text": texts}, rejected)


def text_of(picture: np.ndarray, read: Any) -> tuple[float, list[str]]:
    """Return the share of a picture that texts take, and the texts.

    Args:
        picture: uint8 (H, W, 3), RGB.
        read: RapidOCR, which takes blue first.
    """
    found = read(np.ascontiguousarray(picture[..., ::-1]))
    if found.boxes is None:
        return 0.0, []
    area, texts = 0.0, []
    for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        if score >= SCORE and sum(letter.isalnum() for letter in text) >= LETTERS:
            area += polygon_area(np.asarray(box, np.float64))
            texts.append(text)
    return min(area / (picture.shape[0] * picture.shape[1]), 1.0), texts


def polygon_area(corners: np.ndarray) -> float:
    """Return the area of a polygon without crossings; corners float64 (n, 2), in order."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


@functools.cache
def _reader() -> Any:
    """Return RapidOCR with its default weights, in one thread.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        from rapidocr import RapidOCR
    except ImportError:
        raise ConfigError("text in pictures (--ocr) needs RapidOCR: pip install 'lavie[ocr]'") from None
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params=threads | {"Global.log_level": "error"})


def _identity(config: TextConfig) -> dict[str, Any]:
    """Return what of the settings decides the values: nothing, for a stage that is done at all looks for text."""
    return {}


TEXT = Stage("text", 1, ("cut",), TextConfig, COLUMNS, work=work, identity=_identity)
