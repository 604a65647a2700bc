"""Agreement among raters: Krippendorff's alpha and Fleiss' kappa, from how often a unit was put into a category."""

from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff(counts: np.ndarray, level: Level) -> float | None:
    """Return Krippendorff's alpha: 1 for full agreement, 0 for what chance would give (Krippendorff 2004, chapter 11).

    Args:
        counts: (units, categories), how many raters put a unit into a category. Units with fewer than two answers
            do not count; their raters may differ in number.
        level: nominal: categories agree or not. ordinal: those further apart in the order disagree more, by how many
            answers lie between. interval: by the square of the distance in the order.

    Returns:
        alpha; None where no unit has two answers, or all answers are of one category, so that nothing can disagree.
    """
    answers = counts.sum(axis=1)
    counts, answers = counts[answers > 1].astype(float), answers[answers > 1]
    if not len(counts):
        return None
    categories = np.arange(counts.shape[1])

    # How often two answers of different raters to a unit are of the categories (a, b).
    weighted = counts / (answers - 1)[:, None]
    coincidences = weighted.T @ counts - np.diag(weighted.sum(axis=0))
    totals = coincidences.sum(axis=1)

    # How much a and b disagree.
    if level == "nominal":
        apart = (categories[:, None] != categories).astype(float)
    elif level == "interval":
        apart = (categories[:, None] - categories).astype(float) ** 2
    else:
        middle = totals.cumsum() - totals / 2
        apart = (middle[:, None] - middle) ** 2
    expected = (totals[:, None] * totals * apart).sum() / (totals.sum() - 1)
    if expected == 0:
        return None
    return float(1 - (coincidences * apart).sum() / expected)


def fleiss(counts: np.ndarray) -> float | None:
    """Return Fleiss' kappa: the agreement beyond what the categories' shares would give (Fleiss 1971).

    Fleiss has as many answers for each unit. Where they differ, a unit's agreement is taken over its own pairs of
    answers.

    Args:
        counts: (units, categories), as for `krippendorff`.

    Returns:
        kappa; None under the same conditions as there.
    """
    answers = counts.sum(axis=1)
    counts, answers = counts[answers > 1].astype(float), answers[answers > 1]
    if not len(counts):
        return None
    agreement = (((counts**2).sum(axis=1) - answers) / (answers * (answers - 1))).mean()
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return None if chance == 1 else float((agreement - chance) / (1 - chance))
