"""The key of a study: what its blinded clips and trials are. Raters never get it."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator

from ...config.base import Strict
from ...errors import DataError
from ...files import replacing
from ..measured import short_hash
from .plan import Design

KEY = "key.json"
"""The key's file, beside the folder that raters get."""
PAGE = "page"
"""The folder that raters get."""
INDEX = "index.html"
"""The page itself, in that folder."""
CLIPS = "clips"
"""The folder of clips below it."""
ANSWERS = "answers.csv"
"""Where a served study gathers its answers, beside the key."""
CODE = 1
"""Raised when the same design would be another study than before."""

OVERALL = "overall"
"""The name in place of a metric where a pair is compared."""
CHOICES = ("left", "tie", "right")
LABELS = ("bad", "normal", "good")
"""The paper's labels (5.4), in its order."""
NOT_APPLICABLE = "na"
METRICS = {
    "motion_smoothness": "Motion Smoothness",
    "motion_reasonableness": "Motion Reasonableness",
    "subject_consistency": "Subject Consistency",
    "background_consistency": "Background Consistency",
    "face_body_hand": "Face/Body/Hand quality",
}
"""The paper's metrics (Table 4)."""
OPTIONAL = ("face_body_hand",)
"""Metrics that may not apply: many clips show nobody."""


class ItemKey(Strict):
    """A prompt, and which of its samples."""

    prompt: str
    index: int


class ClipKey(Strict):
    """What a blinded clip is."""

    model: str
    item: int
    """Its place among the items."""
    source: str
    """The name of the file it was made from."""
    copied: Literal["", "noise", "frozen"] = ""
    """Which worse copy of a golden pair it is, if it is one."""


class TrialKey(Strict):
    """What a trial asks."""

    place: int
    kind: Literal["pair", "golden", "repeat", "rating"]
    left: str
    """The blinded name of a clip."""
    right: str | None = None


class Key(Strict):
    """What the answers of a study are about."""

    study: str
    seed: int
    design: Design
    models: tuple[str, ...]
    """In the order in which they are compared: the first against the second, and so on."""
    sources: dict[str, str]
    """The SHA-256 of each model's clips."""
    items: tuple[ItemKey, ...]
    clips: dict[str, ClipKey]
    trials: dict[str, TrialKey]

    @model_validator(mode="after")
    def _whole(self) -> "Key":
        """Refuse a key whose clips and trials are not of its models, items, clips and places."""
        if len(set(self.models)) != len(self.models) or len(self.models) < 2:
            raise ValueError(f"models {', '.join(self.models) or 'none'}: wanted two or more, each once")
        for name, clip in self.clips.items():
            if clip.model not in self.models or not 0 <= clip.item < len(self.items):
                raise ValueError(f"clip {name} is of model {clip.model}, item {clip.item}: the key has no such one")
        for name, trial in self.trials.items():
            if not 0 <= trial.place < self.design.raters:
                raise ValueError(f"trial {name} is of place {trial.place}, of {self.design.raters}")
            if (trial.right is None) != (trial.kind == "rating"):
                raise ValueError(f"trial {name} is a {trial.kind}: a rating is of one clip, all others are of two")
            for shown in (trial.left, trial.right):
                if shown is not None and shown not in self.clips:
                    raise ValueError(f"trial {name} shows {shown!r}: the key has no clip of that name")
        return self

    @property
    def protocol_hash(self) -> str:
        """The first 16 digits of the SHA-256 of what was asked, of how many, about which prompts."""
        content = {
            "code": CODE,
            "design": self.design.model_dump(mode="json"),
            "items": [item.model_dump() for item in self.items],
            "models": len(self.models),
            "metrics": list(METRICS),
            "labels": LABELS,
        }
        return short_hash(content)


def write_key(path: Path, key: Key) -> None:
    """Write a key as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(key.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_key(study: Path) -> Key:
    """Return the key of a study's folder. Raises DataError if there is none."""
    path = study / KEY
    try:
        return Key.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: no study of `lavie eval human make`: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "as a whole"
        raise DataError(f"{path}: damaged: {place}: {fault['msg']}") from None
