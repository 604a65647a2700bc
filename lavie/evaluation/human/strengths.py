"""Strengths of models from votes on pairs of them: Bradley and Terry's model, and Davidson's, which knows ties.

A stands above B with the odds exp(strength of A - strength of B). Davidson (1970): A wins, B wins and a tie have the
weights exp(a), exp(b) and v exp((a + b) / 2).
"""

import numpy as np

STEPS = 60
"""Newton's steps at most; some ten are enough."""
EXACT = 1e-9
"""The largest step of a fit that is done."""
LONGEST = 1.0
"""The longest step, so that a fit does not leap from a flat start."""
LARGEST = 15.0
"""A strength above is a sign that the likelihood has no maximum."""
ELO = 400 / np.log(10)
"""Elo's points of one unit of strength."""


def fit_strengths(counts: np.ndarray, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest strengths of models, for many tables of votes at once.

    Args:
        counts: (B, K, K, 2): how often model i beat j in [:, i, j, 0], and how often i and j tied, for i < j, in
            [:, i, j, 1].
        ties: Davidson's model. Without it, Bradley and Terry's, where a tie is half a win of both.

    Returns:
        strengths (B, K), whose smallest of the first table is 0, in all tables the same model's; and Davidson's v,
        (B,), 0 without ties. NaN where no maximum exists: a group of models won or lost all its votes against
        the others, or Davidson's model met no tie or nothing but ties.
    """
    batch, models = counts.shape[:2]
    first, second = np.triu_indices(models, 1)
    wins, losses = counts[:, first, second, 0], counts[:, second, first, 0]
    tied = counts[:, first, second, 1]

    # Each outcome of a pair has an exponent, which is linear in the strengths and in log v.
    pairs = np.arange(len(first))
    outcomes = np.zeros((len(first), 3, models + 1))
    outcomes[pairs, 0, first] = outcomes[pairs, 1, second] = 1
    outcomes[pairs, 2, first] = outcomes[pairs, 2, second] = 0.5
    outcomes[:, 2, models] = 1
    if ties:
        votes = np.stack([wins, losses, tied], axis=2)
    else:
        votes = np.stack([wins + tied / 2, losses + tied / 2], axis=2)
        outcomes = outcomes[:, :2, :models]
    # The strengths are known up to a constant: the first model's is 0 in the fit.
    solved, exists = _maximise(votes, outcomes[:, :, 1:])
    exists &= _connected(counts)
    if ties:
        exists &= (tied.sum(axis=1) > 0) & ((wins + losses).sum(axis=1) > 0)

    strengths = np.concatenate([np.zeros((batch, 1)), solved[:, : models - 1]], axis=1)
    strengths[~exists] = np.nan
    reference = int(np.argmin(strengths[0])) if exists[0] else 0
    v = np.where(exists, np.exp(solved[:, -1]), np.nan) if ties else np.zeros(batch)
    return strengths - strengths[:, [reference]], v


def _maximise(votes: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the maximum of a likelihood by Newton's method, and where it was found.

    Args:
        votes: (B, pairs, outcomes), how often each outcome came.
        outcomes: (pairs, outcomes, parameters), the exponents' slopes.

    Returns:
        parameters (B, parameters), and a mask (B,).
    """
    values = np.zeros((len(votes), outcomes.shape[2]))
    totals = votes.sum(axis=2)
    moved = np.full(len(votes), np.inf)
    for _ in range(STEPS):
        exponents = np.einsum("pok,bk->bpo", outcomes, values)
        chances = np.exp(exponents - exponents.max(axis=2, keepdims=True))
        chances /= chances.sum(axis=2, keepdims=True)
        slope = np.einsum("bpo,pok->bk", votes - totals[:, :, None] * chances, outcomes)
        means = np.einsum("bpo,pok->bpk", chances, outcomes)
        bend = np.einsum("bp,bpo,pok,pol->bkl", totals, chances, outcomes, outcomes, optimize=True)
        bend -= np.einsum("bp,bpk,bpl->bkl", totals, means, means)
        # A table without a maximum has a flat direction; a trace of curvature keeps the others of the batch going.
        bend += 1e-12 * (1 + np.trace(bend, axis1=1, axis2=2))[:, None, None] * np.eye(bend.shape[1])
        step = np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        length = np.abs(step).max(axis=1)
        values += step * np.minimum(1, LONGEST / np.maximum(length, EXACT))[:, None]
        values = values.clip(-2 * LARGEST, 2 * LARGEST)
        moved = length
        if moved.max() < EXACT:
            break
    return values, (moved < 1e-4) & (np.abs(values).max(axis=1) < LARGEST)


def _connected(counts: np.ndarray) -> np.ndarray:
    """Return (B,), whether from every model a chain of wins or ties leads to every other (Ford 1957)."""
    ties = counts[..., 1] + counts[..., 1].swapaxes(1, 2)
    reached = (counts[..., 0] + ties > 0) | np.eye(counts.shape[1], dtype=bool)
    for _ in range(counts.shape[1].bit_length()):
        reached = (reached.astype(np.int32) @ reached.astype(np.int32)) > 0
    return reached.all(axis=(1, 2))
