"""A job that SLURM starts again and again must get on: one that fails at the same place each time is ended."""

import json
import os
from pathlib import Path

from ..distributed import broadcast_object, is_main
from ..errors import TrainingError
from ..files import replacing

TRIES = 10
"""Restarts of a job from one step, after which it is given up."""
RECORD = "restarts.json"


def require_progress(output_dir: str | Path, step: int) -> None:
    """Raise TrainingError if this SLURM job starts from `step` after TRIES restarts that saved nothing. Collective."""
    refusal = broadcast_object(_stuck(Path(output_dir) / RECORD, step) if is_main() else None)
    if refusal:
        raise TrainingError(refusal)


def _stuck(path: Path, step: int) -> str | None:
    job, restarts = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if not job:
        return None
    before = json.loads(path.read_text()) if path.exists() else {}
    if (before.get("job"), before.get("step")) != (job, step):
        with replacing(path) as partial:
            partial.write_text(json.dumps({"job": job, "step": step, "restarts": restarts}))
        return None
    tries = restarts - before["restarts"]
    if tries < TRIES:
        return None
    return (
        f"SLURM job {job} was started {tries} more times from step {step} and saved nothing after it: its output tells "
        "how each start ended. If its time was up: a longer --time or a smaller checkpointing_steps; then submit anew"
    )
