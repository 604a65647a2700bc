"""Studies whose answers are drawn by known chances, for the tests of what is made of them."""

from pathlib import Path

import numpy as np

from lavie.evaluation.clip_source import VideoClip
from lavie.evaluation.human.answers import Answer
from lavie.evaluation.human.key import LABELS, METRICS, OVERALL, Key
from lavie.evaluation.human.plan import Design
from lavie.evaluation.human.sources import Item, Sources
from lavie.evaluation.human.study import blind


def some_sources(models=("ours", "theirs", "third"), prompts=12, each=1) -> Sources:
    """Clips that are never opened."""
    items = [Item(f"prompt {prompt}", index) for prompt in range(prompts) for index in range(each)]
    names = [f"{number:05d}.mp4" for number in range(len(items))]
    return Sources(items, {model: [VideoClip(name, Path(model) / name) for name in names] for model in models}, {})


def some_key(models=("ours", "theirs", "third"), prompts=12, seed=3, **design) -> Key:
    return blind(some_sources(models, prompts), Design(**design), seed)


def vote(key: Key, rng, worth, ties=0.0, careless=(), labels=(0.2, 0.3, 0.5)) -> list[Answer]:
    """Answers of one rater for each place: models win by their worth, ties come by chance, golden pairs are known.

    Args:
        key: of the study.
        rng: draws the answers.
        worth: of each model; it wins over another by its share of both.
        ties: the chance of a tie.
        careless: places whose raters always say left.
        labels: the chances of bad, normal and good.
    """
    worth = dict(zip(key.models, worth, strict=True))
    found = []
    for number, (name, trial) in enumerate(key.trials.items()):
        rater = f"{trial.place:08x}"
        when = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
        if trial.kind == "rating":
            marks = rng.choice(LABELS, size=len(METRICS), p=labels)
            found += [
                Answer(rater, name, metric, str(mark), 2.0, when) for metric, mark in zip(METRICS, marks, strict=True)
            ]
            continue
        left, right = key.clips[trial.left], key.clips[trial.right]
        chance = worth[left.model] / (worth[left.model] + worth[right.model])
        answer = "tie" if rng.random() < ties else "left" if rng.random() < chance else "right"
        if trial.kind == "golden":
            answer = "right" if left.copied else "left"
        if trial.place in careless:
            answer = "left"
        found.append(Answer(rater, name, OVERALL, answer, 1.5, when))
    return found


def rows(key: Key, answers) -> list[list[str]]:
    """The rows of the CSV of answers."""
    return [[key.study, a.rater, a.trial, a.metric, a.answer, str(a.seconds), a.answered_at] for a in answers]


def rng(seed=0):
    return np.random.default_rng(seed)
