"""Which clips each rater of a study sees, in which order and on which side.

Raters are numbered places. Two neighbouring places see the same pairs on opposite sides, so that over both no side has
an advantage. A rater compares pairs first and then rates single clips.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from ...config.base import Strict
from ...seeds import numpy_generator

GOLDEN = REPEATED = 0.1
"""Golden pairs and repeats, as a share of a rater's pairs."""


class Design(Strict):
    """What a study asks of each rater."""

    raters: Annotated[int, Field(ge=2, le=10_000)] = 30
    """Places for raters; the paper had 30."""
    pairs: Annotated[int, Field(ge=1)] = 50
    """Pairs that a rater compares, beside golden ones and repeats; all if there are fewer."""
    ratings: Annotated[int, Field(ge=0)] = 15
    """Clips that a rater rates, a clip of every model for as many prompts as that gives; all if there are fewer."""
    golden: Literal["noise", "frozen"] = "noise"
    """A golden pair holds a clip and a copy that is worse beyond doubt: under noise, or of its first frame only."""
    golden_share: Annotated[float, Field(ge=0, le=0.5)] = GOLDEN
    repeated_share: Annotated[float, Field(ge=0, le=0.5)] = REPEATED
    """Pairs that a rater sees once more, with the sides swapped."""

    @field_validator("raters")
    @classmethod
    def _even(cls, raters: int) -> int:
        """Refuse a place whose pairs nobody sees the other way round."""
        if raters % 2:
            raise ValueError(f"{raters}: wanted an even number, for every pair is shown both ways")
        return raters


@dataclass(frozen=True)
class Shown:
    """A clip as raters may see it."""

    model: int
    item: int
    """The number of the prompt and index."""
    copy: bool = False
    """Whether it is the worse copy of a golden pair."""


@dataclass(frozen=True)
class Trial:
    """One question to a rater."""

    kind: Literal["pair", "golden", "repeat", "rating"]
    left: Shown
    right: Shown | None = None
    """None for a rating, which is of one clip."""

    def swapped(self, kind: Literal["pair", "golden", "repeat", "rating"] | None = None) -> "Trial":
        """Return the same pair with its sides swapped."""
        assert self.right is not None
        return Trial(kind or self.kind, self.right, self.left)


def plan(design: Design, models: int, items: int, seed: int) -> list[list[Trial]]:
    """Return the trials of each place, in order.

    1. Pairs of the same prompt and index, of all two models, lie in one random order; every two places take the next
       `design.pairs` of them, around and around, so that all pairs get as many votes within one.
    2. Golden pairs are of random clips, repeats of a rater's own pairs from the first half of the order, in the second.
    3. The sides are random for the first of two places, and swapped for the second.
    4. Ratings are of every model's clip for the next prompts.
    """
    generator = numpy_generator(seed, "human plan")
    pairs = [(item, a, b) for item in range(items) for a, b in combinations(range(models), 2)]
    pairs = [pairs[i] for i in generator.permutation(len(pairs))]
    rated = generator.permutation(items)
    many, prompts = min(design.pairs, len(pairs)), min(-(-design.ratings // models), items)

    places = []
    for couple in range(design.raters // 2):
        own = [pairs[i % len(pairs)] for i in range(couple * many, (couple + 1) * many)]
        compared = [Trial("pair", Shown(a, item), Shown(b, item)) for item, a, b in own]
        for _ in range(round(many * design.golden_share) or bool(design.golden_share)):
            clip = Shown(int(generator.integers(models)), int(generator.integers(items)))
            compared.append(Trial("golden", clip, Shown(clip.model, clip.item, copy=True)))
        compared = [trial.swapped() if generator.random() < 0.5 else trial for trial in compared]
        first = _in_order(compared, round(many * design.repeated_share) or bool(design.repeated_share), generator)
        chosen = [int(rated[i % items]) for i in range(couple * prompts, (couple + 1) * prompts)]
        ratings = [Trial("rating", Shown(model, item)) for item in chosen for model in range(models)]
        for trials in (first, [trial.swapped() for trial in first]):
            places.append(trials + [ratings[i] for i in generator.permutation(len(ratings))])
    return places


def _in_order(trials: list[Trial], repeats: int, generator: np.random.Generator) -> list[Trial]:
    """Return trials in a random order, with repeats of pairs from its first half put into its second."""
    trials = [trials[i] for i in generator.permutation(len(trials))]
    middle = (len(trials) + 1) // 2
    early = [trial for trial in trials[:middle] if trial.kind == "pair"]
    again = [early[i].swapped("repeat") for i in generator.permutation(len(early))[:repeats]]
    late = trials[middle:] + again
    return trials[:middle] + [late[i] for i in generator.permutation(len(late))]
