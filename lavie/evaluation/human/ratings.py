"""What ratings of single clips say: the shares of bad, normal and good for each model and metric (Table 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .agreement import fleiss, krippendorff
from .answers import Answer
from .key import LABELS, METRICS, NOT_APPLICABLE, Key
from .preferences import prompt_numbers, share
from .resampling import Votes


def ratings(answers: Sequence[Answer], key: Key, seed: int) -> dict[str, Any]:
    """Return, by metric, the models' shares of each label with intervals, and the raters' agreement.

    "Not applicable" is counted beside, and is no part of the shares.
    """
    prompts = prompt_numbers(key)
    raters = {name: number for number, name in enumerate(sorted({answer.rater for answer in answers}))}
    clips = {name: number for number, name in enumerate(key.clips)}
    found: dict[str, Any] = {}
    for metric in METRICS:
        rows = []
        passed = dict.fromkeys(key.models, 0)
        for answer in answers:
            if answer.metric != metric:
                continue
            name = key.trials[answer.trial].left
            clip = key.clips[name]
            if answer.answer == NOT_APPLICABLE:
                passed[clip.model] += 1
                continue
            label, model = LABELS.index(answer.answer), key.models.index(clip.model)
            rows.append((raters[answer.rater], prompts[clip.item], clips[name], model, label))
        by, on, unit, of_model, of_label = np.array(rows, dtype=int).reshape(-1, 5).T

        counts = np.zeros((len(clips), len(LABELS)), dtype=int)
        np.add.at(counts, (unit, of_label), 1)
        found[metric] = {
            "models": {
                name: _shares(Votes(by, on).where(of_model == i), of_label[of_model == i], seed)
                | {NOT_APPLICABLE: passed[name]}
                for i, name in enumerate(key.models)
            },
            "krippendorff_ordinal": krippendorff(counts, "ordinal"),
            "fleiss": fleiss(counts),
        }
    return found


def _shares(votes: Votes, labels: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the number of ratings, and the share of each label with its interval."""
    shares = {name: share(votes, (labels == i).astype(float), seed) for i, name in enumerate(LABELS)}
    return {"ratings": len(labels)} | {
        name: {"share": found["share"], "interval": found["interval"]} for name, found in shares.items()
    }
