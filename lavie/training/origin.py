"""What a run is made from, for whoever looks at it later: code, packages, ranks, and the shares of its datasets."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from .. import __version__
from ..cluster.rank_facts import code_hashes, package_versions
from ..data.order.plan import DataPlan
from ..distributed import world_size

PATIENCE = 10
"""Seconds that git may take to name the commit: a checkout may lie on a slow disk."""
EVERY = 5
"""Of the steps at which a plan has its shares, each one of so many is told: 40 show any curve, and every start tells
them."""


def facts(plan: DataPlan) -> dict[str, Any]:
    """Return what rank 0 knows of a run's origin at its start, as JSON holds it.

    Args:
        plan: what the run takes of its data.

    Returns:
        "lavie", the version; "commit", of the checkout that runs, with -dirty where files differ from it, or None
        without a checkout; "code", 16 digits of a hash of all source files; "versions" by package; "ranks"; "shares",
        see `shares`.
    """
    code = hashlib.sha256(json.dumps(code_hashes()).encode()).hexdigest()[:16]
    return {
        "lavie": __version__,
        "commit": commit(Path(__file__).resolve().parents[2]),
        "code": code,
        "versions": package_versions(),
        "ranks": world_size(),
        "shares": shares(plan),
    }


def commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, 40 digits, with -dirty where tracked files differ from it.

    None where `checkout` is none, as where pip has installed the package, or git does not tell.
    """
    if not ((checkout / ".git").exists() and (checkout / "train.py").is_file()):
        return None
    words = ("git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def shares(plan: DataPlan) -> dict[str, Any]:
    """Return the shares of a run's datasets over its steps.

    Returns:
        "steps", ascending from 0; "datasets", a list of {"name", "kind", "samples", "shares"}: the share, 0 .. 1, of
        all clips or of all images that come from there, at each of these steps. The name of bare paths is empty.
    """
    last = len(plan.steps) - 1
    at = [number for number in range(last + 1) if number % EVERY == 0 or number == last or last <= EVERY]
    datasets = [
        {
            "name": exposure.name,
            "kind": exposure.kind,
            "samples": exposure.samples,
            "shares": [round(exposure.shares[number], 4) for number in at],
        }
        for exposure in plan.by_dataset
    ]
    return {"steps": [plan.steps[number] for number in at], "datasets": datasets}
