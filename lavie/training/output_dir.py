"""Checks of a run's output_dir: it belongs to one run, and the restarts of that run must make progress.

1. Two runs in one folder would delete each other's checkpoints and mix their records. Rank 0 locks a file in the folder
   for as long as its process lives (`claim`); after a crash, nothing has to be tidied up.
2. A new run would mix with the checkpoints of an earlier one that lie there (`require_own`).
3. A job that SLURM starts again and again, and that fails at the same place each time, is ended (`require_progress`).
"""

import fcntl
import json
import os
import re
import socket
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..config.train import TrainConfig
from ..distributed import broadcast_object, gather_objects, is_main, log
from ..errors import CheckpointError, ConfigError, TrainingError
from ..files import replacing
from ..json_text import parse_json
from ..run_folder import checkpoint_candidates, is_finished, step_of
from .checkpoint.retention import hidden, step_of_hidden
from .shared_folder import require_shared
from .signals import lives

TRIES = 10
"""Restarts of a job from one step, after which it is given up."""
RECORD = "restarts.json"
"""The file that says which job started from which step, and how often SLURM had restarted it before."""
LOCK = "run.lock"
"""The file that a run locks, and in which it says who it is."""
# Hidden state: the locks of this process, by their paths. A lock ends when its file is closed.
_locks: dict[Path, TextIO] = {}


def claim(output_dir: str | Path) -> None:
    """Make `output_dir` and let it be this run's alone. Collective.

    Raises:
        ConfigError: a rank cannot write there, or it is another folder for some ranks.
        TrainingError: another run, which the message names, is using the folder.
    """
    for obstacle in gather_objects(_obstacle(Path(output_dir))):
        if obstacle:
            raise ConfigError(obstacle)
    require_shared(output_dir)
    refusal = broadcast_object(_lock(Path(output_dir)) if is_main() else None)
    if refusal:
        raise TrainingError(refusal)


def require_own(config: TrainConfig, start: int) -> None:
    """Check that a run does not mix with an earlier one's checkpoints in its output_dir. Collective.

    Args:
        config: the run.
        start: how many of its steps are done.

    Raises:
        CheckpointError: checkpoints of later steps lie there, and the run was not asked to resume. One that was asked
            gets a warning.
    """
    later = broadcast_object(_later(config, start) if is_main() else None)
    if later and config.resume_from_checkpoint is None:
        raise CheckpointError(
            f"output_dir {config.output_dir} holds {later[-1].name} of a run before: go on with it by "
            "resume_from_checkpoint=latest, or set another output_dir"
        )
    if later:
        log.warning(f"{later[-1]} is later than step {start}, where this run goes on: latest and auto would take it")


def _obstacle(folder: Path) -> str | None:
    """Make a folder, and return why this rank cannot write there; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"output_dir {folder}: no folder can be there ({error.strerror}): set output_dir elsewhere"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"output_dir {folder} cannot be written: set output_dir elsewhere, or change its rights"
    return None


def _lock(folder: Path) -> str | None:
    """Lock a folder for this process, and return why another run has it; None if this process got it."""
    path = (folder / LOCK).resolve()
    if path in _locks:
        return None
    this = _Owner(os.environ.get("SLURM_JOB_ID"), os.getpid(), socket.gethostname(), _restarts())

    # The file says whose lock it is. An earlier start of this job, on a node that has died, is no other run: a file
    # server may keep its lock.
    try:
        file = path.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{path}, by which a run is alone, cannot be opened ({error.strerror}): move it, or change its rights"
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        other = file.read().strip() or "another run"
        if not this.comes_after(other):
            return (
                f"output_dir {folder} is in use by {other}: wait for it, or set another output_dir. If it is gone, its "
                f"node may have died with the lock: delete {path}"
            )
    except OSError as error:
        log.warning(f"{path} cannot be locked ({error.strerror}): two runs in one output_dir would not be found out")

    file.truncate(0)
    file.write(f"{this}\n")
    file.flush()
    _locks[path] = file
    return None


class _Owner(NamedTuple):
    """Who holds a lock, as the file says it."""

    job: str | None
    """The SLURM job, if it is one's process."""
    process: int
    host: str
    restarts: int
    """How often SLURM has restarted the job."""

    def __str__(self) -> str:
        process = f"process {self.process} on {self.host}"
        return f"SLURM job {self.job}, {process}, restart {self.restarts}" if self.job else process

    def comes_after(self, other: str) -> bool:
        """Return whether this is a later start of the job whose process a lock's text names, which is gone.

        Another `srun` of the same start is another run. So is a process that lives, as far as can be seen from here.
        """
        match = re.fullmatch(r"SLURM job (\S+), process (\d+) on (\S+), restart (\d+)", other)
        if not match or match[1] != self.job or int(match[4]) >= self.restarts:
            return False
        return match[3] != self.host or not lives(int(match[2]))


def _later(config: TrainConfig, start: int) -> list[Path]:
    """Return the checkpoints in output_dir of steps after `start`, oldest step first, damaged and hidden ones too.

    A hidden one that is complete gets its name back at the first save.
    """
    run = Path(config.output_dir)
    steps = {folder: step_of(folder) for folder in checkpoint_candidates(run)}
    steps |= {folder: step_of_hidden(folder) for folder in hidden(run) if is_finished(folder)}
    return sorted((folder for folder, step in steps.items() if step > start), key=lambda folder: steps[folder])


def require_progress(output_dir: str | Path, step: int) -> None:
    """Check that the restarts of a SLURM job make progress. Collective.

    Args:
        output_dir: the folder of the run, which keeps the count.
        step: how many steps are done at this start.

    Raises:
        TrainingError: this job starts from `step` after TRIES restarts that saved nothing.
    """
    refusal = broadcast_object(_stuck(Path(output_dir) / RECORD, step) if is_main() else None)
    if refusal:
        raise TrainingError(refusal)


def _restarts() -> int:
    """Return how often SLURM has restarted this process's job; 0 without one."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _counted(path: Path) -> dict[str, Any] | None:
    """Return what the file RECORD says: a job, a step, and the job's restarts then; None if there is none to be read.

    A file that is damaged is told.
    """
    try:
        found = parse_json(path.read_bytes())
        wanted = {"job": str, "step": int, "restarts": int}
        if isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in wanted.items()):
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass
    log.warning(f"{path} is damaged: the restarts without progress are counted anew")
    return None


def _stuck(path: Path, step: int) -> str | None:
    """Return why a job that starts from `step` is given up; None if it is not.

    Args:
        path: the file RECORD: written at the first start of a job from a step.
        step: how many steps are done.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), _restarts()
    if not job:
        return None

    # Another job, or another step: the count begins here.
    before = _counted(path)
    if before is None or (before["job"], before["step"]) != (job, step):
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
