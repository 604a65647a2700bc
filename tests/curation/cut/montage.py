"""Films of many shots with hard cuts, dissolves and fades at known places, and how a splitter's answers compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lavie.curation.cut.splitters.base import Transition
from tests.curation.made_cut import moving


@dataclass
class Montage:
    """A film and its truth."""

    frames: list[np.ndarray]
    """uint8 (H, W, 3) each."""
    hard: list[int] = field(default_factory=list)
    """The first frame of every shot that follows a hard cut."""
    soft: list[tuple[int, int]] = field(default_factory=list)
    """The frames that mix two shots, or a shot with black: the first of them, and the one behind the last."""


def montage(shots: Sequence[np.ndarray], seed: int = 0, share_soft: float = 0.35) -> Montage:
    """Return shots one behind another: two of three by a hard cut, the others by a dissolve or a fade from black.

    Args:
        shots: uint8 (F, H, W, 3) each, of 20 frames and more.
        seed: of the choices.
        share_soft: how many transitions are soft.
    """
    rng = np.random.default_rng(seed)
    made = Montage(list(shots[0]))
    for shot in shots[1:]:
        kind = rng.choice(["cut", "dissolve", "fade"], p=[1 - share_soft, share_soft * 0.75, share_soft * 0.25])
        place, length = len(made.frames), int(rng.integers(6, 13))
        if kind == "cut":
            made.hard.append(place)
            made.frames += list(shot)
        elif kind == "fade":
            shares = np.linspace(0, 1, length + 2)[1:-1]
            made.soft.append((place, place + length))
            made.frames += [(share * frame).astype(np.uint8) for share, frame in zip(shares, shot, strict=False)]
            made.frames += list(shot[length:])
        else:
            shares = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
            old = np.stack(made.frames[-length:]).astype(float)
            made.frames[-length:] = list(((1 - shares) * old + shares * shot[:length]).astype(np.uint8))
            made.soft.append((place - length, place))
            made.frames += list(shot[length:])
    return made


def rendered(count: int, seed: int = 0, height: int = 72, width: int = 128) -> list[np.ndarray]:
    """Return shots of 20 to 40 frames of pictures that stand still, pan slowly or pan fast, some of them dark."""
    rng = np.random.default_rng(seed)
    shots = []
    for number in range(count):
        shot = moving(1000 * seed + number, int(rng.integers(20, 41)), height, width, int(rng.choice([0, 1, 2, 4])))
        shots.append((shot * rng.choice([0.5, 1.0], p=[0.2, 0.8])).astype(np.uint8))
    return shots


@dataclass
class Score:
    """How a splitter's answers compare with the truth."""

    hits: int
    """Hard cuts that are answered to the frame."""
    hard: int
    false: int
    """Answers that are at no transition."""
    answered: int
    """Soft transitions that are answered by a cut or a span within them."""
    soft: int

    @property
    def recall(self) -> float:
        """The share of hard cuts that are found."""
        return self.hits / self.hard

    @property
    def precision(self) -> float:
        """The share of hard cuts among them and what is false."""
        return self.hits / (self.hits + self.false)


def compare(truth: Montage, found: Sequence[Transition]) -> Score:
    """Return how answers compare with the truth; a frame beside a soft transition counts as within it."""
    ends = [transition.end for transition in found]
    hits = set(truth.hard) & set(ends)
    within = {
        span: [end for end in ends if end not in hits and span[0] - 1 <= end <= span[1] + 1] for span in truth.soft
    }
    excused = {end for ends in within.values() for end in ends}
    false = [end for end in ends if end not in hits and end not in excused]
    return Score(len(hits), len(truth.hard), len(false), sum(map(bool, within.values())), len(truth.soft))
