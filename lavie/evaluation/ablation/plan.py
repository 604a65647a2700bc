"""What an ablation is, as data: arms that differ in a few keys of one config, what is drawn of each, and claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Case = tuple[str, str, str | None]
"""(colour, shape, direction) of what a prompt asks for; an image has no direction."""
Judge = Callable[[np.ndarray, int, Case], Mapping[str, float | None]]
"""Takes a clip uint8 (F, H, W, 3), the frames that were trained, and what was asked for, and gives measures by name."""
LOSS = "validation_loss"
"""How the names of the validation losses begin, as in metrics.jsonl."""
MS_PER_STEP = "ms_per_step"
"""The measure of speed: median milliseconds of a training step."""


def is_share(measure: str) -> bool:
    """Return whether a measure, by its name with or without the draw's, is a share of samples."""
    return measure.endswith(("colour", "direction"))


@dataclass(frozen=True)
class RenderedSet:
    """A rendered dataset; see `lavie.data.prepare.synthetic.demo_set`. Its clips have twice the frames of a run's."""

    clips: int = 800
    """Training clips."""
    images: int = 240
    """Training images."""
    size: float | None = None
    """Height and width as a share of a run's; None: 64 pixels, or a run's size where that is more."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of `demo_set`."""


@dataclass(frozen=True)
class Arm:
    """One of the trainings that are compared."""

    label: str
    """What tables and plots call the arm."""
    overrides: Sequence[str] = ()
    """Keys of the config, each as key=value: all in which the arm differs from the others."""
    data: str = "clips"
    """The name of the rendered set that it trains on."""
    start: str | None = None
    """The arm of the same seed whose weights it starts from; None: fresh weights."""
    steps: float = 1.0
    """Its share of the ablation's steps."""


@dataclass(frozen=True)
class Draw:
    """Clips or images that are drawn of every arm and judged: the same prompts from the same noise."""

    cases: Sequence[Case]
    """What the prompts ask for."""
    judge: Judge
    """Measures a drawn clip."""
    times: int = 4
    """Samples of each case."""
    length: float = 1.0
    """Frames of a clip, as a multiple of the trained ones; 0: images."""


@dataclass(frozen=True)
class Claim:
    """Something that the paper says, or that was asked beforehand, as an inequality between measures.

    The effect is the measure of `arm` less that of `other` (or its negative, where lower is better), and the claim says
    that it is above `margin`.
    """

    text: str
    """The claim, as a sentence."""
    measure: str
    """The measure of the results that it is about: "draw.measure", a validation loss, or MS_PER_STEP."""
    arm: str
    """The name of the arm that should be better."""
    other: str | None = None
    """The name of the arm that it is compared with; None: the measure itself is compared with `margin`."""
    lower: bool = False
    """Whether lower is better."""
    margin: float = 0.0
    """What the effect should exceed, in units of the measure."""


@dataclass(frozen=True)
class Ablation:
    """A comparison of arms."""

    name: str
    """The name of its command."""
    title: str
    """The title of its section on the page."""
    paper: str
    """What the paper reports."""
    here: str
    """What is done here in its place, and what that cannot tell."""
    arms: Mapping[str, Arm]
    """By name; one that others start from comes before them."""
    draws: Mapping[str, Draw]
    """By name, which their measures have before a dot."""
    claims: Sequence[Claim]
    measures: Mapping[str, str]
    """What each measure of the draws means, by its name without the draw's."""
    sets: Mapping[str, RenderedSet] = field(default_factory=lambda: {"clips": RenderedSet()})
    """The rendered sets, by name."""
    common: Sequence[str] = ()
    """Keys of the config that all arms change."""
    steps: int = 1800
    """Steps of an arm whose share is 1, with the config that comes with the ablation."""
