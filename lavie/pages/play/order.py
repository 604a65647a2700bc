"""What a browser asks for: a prompt, and how it is to be drawn."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from ...config.base import Strict
from ...config.load import validate
from ...config.stages import StageName
from ...inference.prompt_file import Request
from ...inference.settings import CascadeSettings

MOST_CLIPS = 16
"""Clips of one order."""
LARGEST_SEED = 2**53 - 1 - MOST_CLIPS
"""The largest seed, which a number of JavaScript can hold with those of the clips after it."""
LONGEST_PROMPT = 4000
"""Characters of a prompt."""
ID = r"[0-9a-f]{32}"
"""The form of random names."""


def _named(name: str) -> str:
    """Return a random name. Raises ValueError if it is none."""
    if not re.fullmatch(ID, name):
        raise ValueError("wanted the 32 hexadecimal digits of an upload")
    return name


def _worded(prompt: str) -> str:
    """Return a prompt. Raises ValueError if it has no words."""
    if not prompt.strip():
        raise ValueError("wanted words that say what to draw")
    return prompt


class StageOrder(Strict):
    """What is asked of one stage; what is not keeps the run's own."""

    model_config = ConfigDict(strict=True)

    num_inference_steps: int | None = Field(None, ge=2, le=500)
    """Denoising steps."""
    guidance_scale: float | None = Field(None, ge=0, le=100)
    """Scale of classifier-free guidance."""


class Order(Strict):
    """One request for clips."""

    model_config = ConfigDict(strict=True)

    model: str
    """The name of a source."""
    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT), AfterValidator(_worded)]
    """What to draw."""
    negative_prompt: str | None = Field(None, max_length=LONGEST_PROMPT)
    """What to steer away from, in all stages; null: what the runs say."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of the first clip; each further one has the next."""
    clips: int = Field(1, ge=1, le=MOST_CLIPS)
    """How many clips."""
    stop_after: StageName = "base"
    """The last stage that runs."""
    stages: dict[StageName, StageOrder] = Field(default_factory=dict)
    """What is asked of the stages that run."""
    loras: dict[str, float] = Field(default_factory=dict)
    """Scales of LoRAs, by name."""
    image: Annotated[str, AfterValidator(_named)] | None = None
    """The name of an uploaded image that the clip starts from."""
    strength: float | None = Field(None, ge=0, le=1)
    """The share of the steps that draw over the image; null: the clip begins with the image as it is."""

    def settings(self, planned: CascadeSettings, number: int = 0) -> CascadeSettings:
        """Return the settings of a clip.

        Args:
            planned: those of the source.
            number: of the clip, from 0.

        Raises:
            ConfigError: one is out of range.
        """
        changes: dict[str, Any] = {"seed": self.seed + number}
        if self.negative_prompt is not None:
            changes["negative_prompt"] = self.negative_prompt
        for stage, asked in self.stages.items():
            changes[stage] = asked.model_dump(exclude_none=True)
        return Request(self.prompt, changes, "the order").over(planned)

    def of_clip(self, number: int) -> "Order":
        """Return the order that draws clip `number`, from 0, of this one alone."""
        return self.model_copy(update={"seed": self.seed + number, "clips": 1})


def read_order(values: dict[str, Any]) -> Order:
    """Return an order from JSON values. Raises ConfigError, which names each key that is faulty."""
    return validate(Order, values, "the order")


def as_json(value: Any) -> str:
    """Return a value as JSON for a file that people may read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
