"""The quality of raters: whether they pass golden pairs, repeat themselves, and how fast and one-sided they are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .answers import Answer
from .key import Key, TrialKey

ATTENTIVE = 0.8
"""The share of golden pairs from which on a rater is called attentive."""
MIRRORED = {"left": "right", "tie": "tie", "right": "left"}


@dataclass
class Rater:
    """What is known of one rater."""

    name: str
    votes: int = 0
    """Pairs, golden ones and repeats too."""
    ratings: int = 0
    golden: int = 0
    """Golden pairs that were seen."""
    golden_right: int = 0
    repeats: int = 0
    """Repeats of pairs that were seen both times."""
    repeats_alike: int = 0
    """Repeats whose answer was the same for the same clip."""
    ties: float = 0.0
    """Share of pairs called a tie, golden ones aside."""
    left: float | None = None
    """Share of left among the other votes on them; None where all were ties."""
    seconds: float = 0.0
    """The median time that a vote took once both clips had been played."""
    finished: bool = False
    """Whether all trials of the place have an answer."""

    @property
    def attentive(self) -> bool:
        """Whether 80 % of the golden pairs were answered right; a rater who has met none is taken at their word."""
        return self.golden == 0 or self.golden_right / self.golden >= ATTENTIVE

    def told(self) -> dict[str, Any]:
        """Return this as JSON."""
        return {**asdict(self), "attentive": self.attentive}


def judge_raters(answers: Sequence[Answer], key: Key) -> dict[str, Rater]:
    """Return what is known of each rater, by name."""
    by_rater: dict[str, list[Answer]] = {}
    for answer in answers:
        by_rater.setdefault(answer.rater, []).append(answer)
    return {name: _judge(name, own, key) for name, own in by_rater.items()}


def _judge(name: str, answers: Sequence[Answer], key: Key) -> Rater:
    """Return what is known of one rater."""
    rater = Rater(name)
    votes: dict[str, Answer] = {}
    for answer in answers:
        if key.trials[answer.trial].kind == "rating":
            rater.ratings += 1
        else:
            votes[answer.trial] = answer
    rater.votes = len(votes)

    by_clips: dict[tuple[str, str | None], str] = {}
    chosen = []
    for answer in votes.values():
        trial = key.trials[answer.trial]
        if trial.kind == "golden":
            rater.golden += 1
            rater.golden_right += answer.answer == _unharmed(trial, key)
            continue
        chosen.append(answer.answer)
        if trial.kind == "pair":
            by_clips[trial.left, trial.right] = answer.answer
    for answer in votes.values():
        trial = key.trials[answer.trial]
        assert trial.right is not None or trial.kind == "rating"
        if trial.kind == "repeat" and trial.right and (trial.right, trial.left) in by_clips:
            rater.repeats += 1
            rater.repeats_alike += by_clips[trial.right, trial.left] == MIRRORED[answer.answer]

    decided = [answer for answer in chosen if answer != "tie"]
    if chosen:
        rater.ties = 1 - len(decided) / len(chosen)
        rater.left = decided.count("left") / len(decided) if decided else None
        rater.seconds = float(np.median([answer.seconds for answer in votes.values()]))
    places = {key.trials[answer.trial].place for answer in answers}
    wanted = {trial for trial, known in key.trials.items() if known.place in places}
    rater.finished = wanted <= {answer.trial for answer in answers}
    return rater


def _unharmed(trial: TrialKey, key: Key) -> str:
    """Return the side of a golden pair on which the clip itself is."""
    return "right" if key.clips[trial.left].copied else "left"
