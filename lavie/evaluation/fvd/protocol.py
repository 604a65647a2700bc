"""How clips become the input of an extractor, as data: the presets of the field, and the hash of a protocol.

FVD moves by hundreds with geometry and stride (the paper's Table 1 spans less), so a number without its protocol says
nothing, and two numbers compare only where their hashes are equal.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from ...config.base import Strict
from ...config.load import validate
from ...config.yaml_values import one_line, read_document
from ...errors import ConfigError
from ..measured import short_hash

CODE = 1
"""Raised when the same protocol would give other numbers than before."""
Side = Annotated[int, Field(ge=1, le=4096)]


class Resize(Strict):
    """Bilinear resizing."""

    step: Literal["resize"] = "resize"
    short_side: Side | None = None
    """The shorter side becomes so many pixels, the other keeps the aspect (rounded down)."""
    stretch: tuple[Side, Side] | None = None
    """Or height and width, whatever the aspect."""
    antialias: bool = False
    """Whether pixels are averaged where the picture shrinks, as PIL does and torch by default does not."""
    grid: Literal["centres", "corners"] = "centres"
    """centres: pixel i is at i + 1/2, as everywhere today. corners: pixel i is at i, as TensorFlow 1 had it."""

    @model_validator(mode="after")
    def _one_size(self) -> "Resize":
        """Refuse none and both of the sizes, and antialiasing on the old grid, which had none."""
        if (self.short_side is None) == (self.stretch is None):
            raise ValueError("short_side or stretch: give one of them")
        if self.antialias and self.grid == "corners":
            raise ValueError("grid: corners has no antialiasing")
        return self


class Crop(Strict):
    """A crop of the middle; an odd pixel more is left at the end."""

    step: Literal["crop"] = "crop"
    size: tuple[Side, Side]
    """Height and width; the picture must be as large."""


class Round(Strict):
    """Rounding to whole levels, where clips are stored between two steps."""

    step: Literal["round"] = "round"


Step = Annotated[Resize | Crop | Round, Field(discriminator="step")]


class Reading(Strict):
    """What one side's clips go through."""

    start: Literal["first", "random"] = "first"
    """Where a clip of a longer video begins; random: by a hash of (seed, name)."""
    stride: Annotated[int, Field(ge=1)] = 1
    """Frames from one to the next."""
    draw: Literal["each", "windows"] = "each"
    """each: one clip of every video. windows: `limit` of all windows of all videos, so long ones weigh more."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """The most clips, drawn by the seed; null for all."""
    source_size: tuple[Side, Side] | None = None
    """The height and width that the clips must have; null for any."""
    steps: tuple[Step, ...]


class Protocol(Strict):
    """What is measured, from files to the covariance."""

    num_frames: Annotated[int, Field(ge=1)] = 16
    real: Reading
    fake: Reading
    ddof: Literal[0, 1] = 1
    """The covariance divides by n - ddof."""
    seed: int = 0
    """What random starts and draws are drawn from."""
    notes: tuple[str, ...] = ()
    """What a reader of a number by this protocol should know. No part of the hash."""

    @property
    def hash(self) -> str:
        """The first 16 digits of the SHA-256 of everything that moves a number."""
        content = {"code": CODE, **self.model_dump(mode="json", exclude={"notes"})}
        return short_hash(content)


SQUARE = Resize(stretch=(224, 224))
"""The stretch to I3D's size that most implementations have."""
PAPER_NOTES = (
    "LaVie 5.4 gives the prompts (101 class names, 100 samples each), 16 frames of 320 x 512, the crop of 270, 224.",
    "LaVie 5.4 does not give the reals: which, how many, their crop, start, stride; nor antialiasing, ddof, sampler, "
    "guidance.",
    "The paper's FVD on UCF101 is 350.00 in Table 1, and 526.30 by its text (550.61 less 24.31).",
)

PRESETS: dict[str, Protocol] = {
    "lavie": Protocol(
        real=Reading(start="random", steps=(Resize(short_side=224), Crop(size=(224, 224)))),
        fake=Reading(source_size=(320, 512), steps=(Crop(size=(270, 270)), SQUARE)),
        notes=PAPER_NOTES,
    ),
    "original": Protocol(
        real=Reading(steps=(Resize(stretch=(224, 224), grid="corners"),)),
        fake=Reading(steps=(Resize(stretch=(224, 224), grid="corners"),)),
    ),
    "tats": Protocol(
        real=Reading(
            start="random",
            draw="windows",
            limit=2048,
            steps=(Resize(short_side=128), Crop(size=(128, 128)), Round(), SQUARE),
        ),
        fake=Reading(limit=2048, steps=(SQUARE,)),
    ),
    "stylegan-v": Protocol(
        real=Reading(start="random", limit=2048, steps=(SQUARE,)), fake=Reading(limit=2048, steps=(SQUARE,)), ddof=0
    ),
    "cd-fvd": Protocol(
        real=Reading(
            start="random",
            limit=2048,
            steps=(Resize(short_side=128, antialias=True), Crop(size=(128, 128)), Round(), SQUARE),
        ),
        fake=Reading(
            start="random",
            limit=2048,
            steps=(Resize(short_side=128, antialias=True), Crop(size=(128, 128)), Round(), SQUARE),
        ),
        ddof=0,
    ),
}
"""The protocols that published numbers were made by, as far as their code says."""


def load_protocol(name: str, num_frames: int | None = None, seed: int | None = None) -> Protocol:
    """Return a preset, or the protocol of a YAML file, with another number of frames or seed where given.

    Raises:
        ConfigError: there is no such preset, or the file is no protocol.
    """
    if name in PRESETS:
        found = PRESETS[name]
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            values = read_document(Path(name).read_text(encoding="utf-8"), Protocol)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"--preset {name}: cannot be read: {one_line(error)}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"--preset {name}: wanted keys and values, as {PRESETS['tats'].model_dump(mode='json')}")
        found = validate(Protocol, values, name)
    else:
        raise ConfigError(f"--preset {name}: wanted one of {', '.join(PRESETS)}, or a .yaml file with a protocol")
    changes = {"num_frames": num_frames, "seed": seed}
    return found.model_copy(update={key: value for key, value in changes.items() if value is not None})
