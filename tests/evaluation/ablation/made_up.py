"""Results that no training gave, for the tests of what is said of results."""

from collections.abc import Sequence

from lavie.evaluation.ablation.results import Result


def result(arm: str, seed: int, ablation: str = "table7", **changes) -> Result:
    """Return a result with the given fields."""
    fields = {
        "config_hash": f"hash of {arm}",
        "steps": 40,
        "values": {},
        "scores": {},
        "weights_sha256": "0" * 64,
        "seconds": {"training": 100.0, "training_cpu": 90.0, "drawing": 20.0},
        "hardware": "a machine, 2 cores, 1 threads",
        "load": 1.5,
        "versions": {"lavie": "1", "torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "command": f"lavie ablate {ablation} out",
    }
    return Result(**{**fields, "ablation": ablation, "arm": arm, "seed": seed, **changes})


def judged(arm: str, seed: int, measure: str, scores: Sequence[float | None], ablation: str = "table7") -> Result:
    """Return a result of one measure of samples, with its mean."""
    there = [score for score in scores if score is not None]
    mean = sum(there) / len(there) if there else None
    return result(arm, seed, ablation, values={measure: mean}, scores={measure: list(scores)})


def shares(right: int, count: int = 48) -> list[float]:
    """Return scores of which the first so many are 1 and the others 0."""
    return [float(number < right) for number in range(count)]
