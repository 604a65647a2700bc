"""What votes on pairs say: the share of wins of one model over another, and the strengths of all (Table 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .agreement import fleiss, krippendorff
from .answers import Answer
from .key import Key
from .resampling import Votes, share_interval, student, two_way_error
from .strengths import ELO, fit_strengths

SCORES = {"left": 1.0, "tie": 0.5, "right": 0.0}
"""What a vote gives to the model on the left."""


@dataclass(frozen=True)
class PairVotes:
    """Votes on pairs of two models, golden pairs and repeats left out."""

    by: Votes
    items: np.ndarray
    """(votes,), the prompt and index."""
    first: np.ndarray
    """(votes,), the number of the model that was named before the other when the study was made."""
    second: np.ndarray
    score: np.ndarray
    """(votes,), 1 where the first won, 0.5 for a tie, 0 where the second won."""

    def where(self, chosen: np.ndarray) -> "PairVotes":
        """Return the chosen votes."""
        by = self.by.where(chosen)
        return PairVotes(by, self.items[chosen], self.first[chosen], self.second[chosen], self.score[chosen])


def pair_votes(answers: Sequence[Answer], key: Key) -> PairVotes:
    """Return the votes on pairs among the answers."""
    models = {model: number for number, model in enumerate(key.models)}
    prompts = prompt_numbers(key)
    raters = {name: number for number, name in enumerate(sorted({answer.rater for answer in answers}))}
    rows = []
    for answer in answers:
        trial = key.trials[answer.trial]
        if trial.kind != "pair" or trial.right is None:
            continue
        left, right = key.clips[trial.left], key.clips[trial.right]
        a, b, score = models[left.model], models[right.model], SCORES[answer.answer]
        if a > b:
            a, b, score = b, a, 1 - score
        rows.append((raters[answer.rater], prompts[left.item], left.item, a, b, score))
    table = np.array(rows, dtype=float).reshape(-1, 6)
    whole = table[:, :5].astype(int)
    return PairVotes(Votes(whole[:, 0], whole[:, 1]), whole[:, 2], whole[:, 3], whole[:, 4], table[:, 5])


def prompt_numbers(key: Key) -> list[int]:
    """Return the number of each item's prompt; samples of one prompt share it."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(item.prompt, len(numbers)) for item in key.items]


def share(votes: Votes, scores: np.ndarray, seed: int) -> dict[str, Any]:
    """Return a mean of scores in [0, 1], one for each vote, with its 95 % interval over raters and prompts."""
    if not len(scores):
        return {"votes": 0, "share": None, "standard_error": None, "interval": None}
    values = scores.astype(np.float32)
    found = float(scores.mean())
    error = two_way_error(lambda weights: weights @ values / np.maximum(weights.sum(axis=1), 1e-9), votes, seed)
    around = None if error is None else share_interval(found, float(error), votes.freedom)
    return {
        "votes": len(scores),
        "share": found,
        "standard_error": None if error is None else float(error),
        "interval": None if around is None else list(around),
    }


def preferences(votes: PairVotes, models: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return, for every two models, how often the first is preferred: ties as half a win of both, and left out."""
    found = []
    for a, b in combinations(range(len(models)), 2):
        pair = votes.where((votes.first == a) & (votes.second == b))
        decided = pair.where(pair.score != 0.5)
        all_votes = share(pair.by, pair.score, seed)
        low, high = all_votes["interval"] or (0, 1)
        found.append(
            {
                "first": models[a],
                "second": models[b],
                "raters": len(np.unique(pair.by.raters)),
                "prompts": len(np.unique(pair.by.prompts)),
                "wins": int((pair.score == 1).sum()),
                "ties": int((pair.score == 0.5).sum()),
                "losses": int((pair.score == 0).sum()),
                **all_votes,
                "without_ties": share(decided.by, decided.score, seed),
                "verdict": f"{models[a]} is preferred"
                if low > 0.5
                else f"{models[b]} is preferred"
                if high < 0.5
                else "undecidable",
            }
        )
    return found


def strengths(votes: PairVotes, models: Sequence[str], seed: int, ties: bool) -> dict[str, Any] | None:
    """Return each model's strength over the weakest, with its interval, and in Elo's points; None if there is none.

    Args:
        votes: on pairs.
        models: their names.
        seed: of the bootstrap.
        ties: Davidson's model; else Bradley and Terry's.
    """
    count = len(models)
    flat = np.zeros((len(votes.score), count, count, 2), dtype=np.float32)
    at = np.arange(len(votes.score))
    flat[at, votes.first, votes.second, 0] = votes.score == 1
    flat[at, votes.second, votes.first, 0] = votes.score == 0
    flat[at, votes.first, votes.second, 1] = votes.score == 0.5
    table = flat.reshape(len(flat), -1)
    whole, v = fit_strengths(table.sum(axis=0).reshape(1, count, count, 2).astype(float), ties)
    if np.isnan(whole).any():
        return None
    weakest = int(np.argmin(whole[0]))

    def drawn(weights: np.ndarray) -> np.ndarray:
        """The strengths of each draw, over the model that is weakest in all votes."""
        found, _ = fit_strengths((weights @ table).reshape(-1, count, count, 2).astype(float), ties)
        return found - found[:, [weakest]]

    error = two_way_error(drawn, votes.by, seed)
    reach = student(votes.by.freedom) if error is not None else 0.0
    return {
        "model": "Davidson" if ties else "Bradley-Terry",
        "v": float(v[0]) if ties else None,
        "models": {
            name: {
                "strength": float(whole[0, i]),
                "interval": None
                if error is None or i == weakest
                else [float(whole[0, i] - reach * error[i]), float(whole[0, i] + reach * error[i])],
                "elo": float(whole[0, i] * ELO),
            }
            for i, name in enumerate(models)
        },
    }


def pair_agreement(votes: PairVotes) -> dict[str, float | None]:
    """Return how far raters agree on pairs: first, tie or second, which have no order to nominal alpha and to kappa."""
    pairs = np.stack([votes.items, votes.first, votes.second], axis=1)
    units, unit = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.zeros((len(units), 3), dtype=int)
    np.add.at(counts, (unit.reshape(-1), (votes.score * 2).astype(int)), 1)
    return {"krippendorff_nominal": krippendorff(counts, "nominal"), "fleiss": fleiss(counts)}


def by_item(votes: PairVotes, key: Key) -> dict[str, float]:
    """Return the first model's share of wins over all others on each sample, by the sample's prompt and index."""
    found = {}
    ours = votes.where(votes.first == 0)
    for item in np.unique(ours.items):
        known = key.items[int(item)]
        found[f"{known.prompt} [{known.index}]"] = float(ours.score[ours.items == item].mean())
    return found
