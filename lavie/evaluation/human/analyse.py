"""The analysis of a study: everything that its answers say, as a result."""

from collections.abc import Sequence
from typing import Any

from .answers import Answer, Answers
from .key import Key
from .preferences import by_item, pair_agreement, pair_votes, preferences, strengths
from .raters import ATTENTIVE, judge_raters
from .ratings import ratings


def analyse(key: Key, answers: Answers, seed: int = 0) -> dict[str, Any]:
    """Return a study's result (see `measured`): the first model's share of wins over the second, and all else.

    Everything is given for all raters, and for those who answered 80 % of the golden pairs right.

    Args:
        key: of the study.
        answers: of its raters.
        seed: of the bootstrap.
    """
    raters = judge_raters(answers.found, key)
    attentive = [answer for answer in answers.found if raters[answer.rater].attentive]
    every = _say(key, answers.found, seed)
    first = every["preferences"][0]
    left_out = [name for name, rater in raters.items() if not rater.attentive]
    notes = [
        "The paper (5.4, Tables 3 and 4) gives no numbers of votes, no ties and no intervals: its shares compare with "
        "these in kind only."
    ]
    unfinished = [name for name, rater in raters.items() if not rater.finished]
    if unfinished:
        notes.append(f"{len(unfinished)} of {len(raters)} raters did not answer everything; what they answered counts")
    if any(rater.golden == 0 for rater in raters.values()):
        notes.append("raters who met no golden pair are taken for attentive")
    if answers.changed:
        notes.append(f"{answers.changed} answers were changed later by their raters; the last ones count")
    if answers.twice:
        notes.append(f"{answers.twice} rows stood there twice, and count once")
    if first["interval"] is None:
        notes.append("intervals need two raters and two prompts or more")
    for name, fitted in every["strengths"].items():
        if fitted is None:
            why = "no ties, or nothing but ties" if name == "davidson" else "a model won or lost all its votes"
            notes.append(f"strengths by {name} do not exist for these votes: {why}")
    return {
        "metric": "human_preference",
        "value": first["share"],
        "n": {"raters": len(raters), "votes": sum(pair["votes"] for pair in every["preferences"])},
        "interval": first["interval"],
        "study": key.study,
        "models": list(key.models),
        "protocol": key.design.model_dump(mode="json"),
        "protocol_hash": key.protocol_hash,
        "data": {"clips": key.sources},
        "all": every,
        "attentive": _say(key, attentive, seed) if left_out else every,
        "left_out": {"golden_below": ATTENTIVE, "raters": left_out},
        "raters": [rater.told() for rater in raters.values()],
        "scores": by_item(pair_votes(answers.found, key), key),
        "notes": notes,
    }


def _say(key: Key, answers: Sequence[Answer], seed: int) -> dict[str, Any]:
    """Return what some of the answers say."""
    votes = pair_votes(answers, key)
    return {
        "raters": len({answer.rater for answer in answers}),
        "preferences": preferences(votes, key.models, seed),
        "strengths": {
            name: strengths(votes, key.models, seed, ties) if len(votes.score) else None
            for name, ties in (("bradley_terry", False), ("davidson", True))
        },
        "agreement": pair_agreement(votes),
        "ratings": ratings(answers, key, seed),
    }
