"""An output_dir belongs to one run, and the run must get on.

1. Two runs in one folder would delete each other's checkpoints and mix their records. Rank 0 locks a file in the folder
   for as long as its process lives (`claim`); after a crash, nothing has to be tidied up.
2. A new run would mix with the checkpoints of an earlier one that lie there (`require_own`).
3. A job that SLURM starts again and again, and that fails at the same place each time, is ended (`require_progress`).
"""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import TextIO

from ..config.train import TrainConfig
from ..distributed import broadcast_object, gather_objects, is_main, log
from ..errors import CheckpointError, ConfigError, TrainingError
from ..files import replacing
from ..run_folder import checkpoints, step_of

TRIES = 10
"""Restarts of a job from one step, after which it is given up."""
RECORD = "restarts.json"
LOCK = "run.lock"
_held: dict[Path, TextIO] = {}
"""The locks of this process: a lock ends when its file is closed."""


def claim(output_dir: str | Path) -> None:
    """Make `output_dir` and let it be this run's alone. Collective.

    Raises ConfigError if a rank cannot write there, and TrainingError, naming the other run, where that still does.
    """
    for obstacle in gather_objects(_obstacle(Path(output_dir))):
        if obstacle:
            raise ConfigError(obstacle)
    refusal = broadcast_object(_lock(Path(output_dir)) if is_main() else None)
    if refusal:
        raise TrainingError(refusal)


def require_own(config: TrainConfig, start: int) -> None:
    """Raise CheckpointError if a run begun at step 0 would mix with another's checkpoints in output_dir. Collective."""
    later = broadcast_object(_later(config, start) if is_main() else None)
    if later and config.resume_from_checkpoint is None:
        raise CheckpointError(
            f"output_dir {config.output_dir} holds {later[-1].name} of a run before: go on with it by "
            "resume_from_checkpoint=latest, or set another output_dir"
        )
    if later:
        log.warning(f"{later[-1]} is later than step {start}, where this run goes on: latest and auto would take it")


def _obstacle(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"output_dir {folder}: no folder can be there ({error.strerror}): set output_dir elsewhere"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"output_dir {folder} cannot be written: set output_dir elsewhere, or change its rights"
    return None


def _lock(folder: Path) -> str | None:
    """Why the folder cannot be had, or None."""
    path = (folder / LOCK).resolve()
    if path in _held:
        return None
    me, job = f"process {os.getpid()} on {socket.gethostname()}", os.environ.get("SLURM_JOB_ID")
    mine = f"SLURM job {job}, " if job else ""
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        other = file.read().strip() or "another run"
        if not mine or not other.startswith(mine):
            return (
                f"output_dir {folder} is in use by {other}: wait for it, or set another output_dir. If it is gone, its "
                f"node may have died with the lock: delete {path}"
            )
        # An earlier start of this job, on a node that has died: a file server may keep the lock for it.
    except OSError as error:
        log.warning(f"{path} cannot be locked ({error.strerror}): two runs in one output_dir would not be found out")
    file.truncate(0)
    file.write(f"{mine}{me}\n")
    file.flush()
    _held[path] = file
    return None


def _later(config: TrainConfig, start: int) -> list[Path]:
    return [p for p in checkpoints(config.output_dir) if step_of(p) > start]


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
