"""One run at a time for an output_dir: two would delete each other's checkpoints, and mix their records.

Rank 0 locks a file there for as long as its process lives, which needs no tidying up after a crash.
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from ..distributed import broadcast_object, is_main, log
from ..errors import TrainingError

LOCK = "run.lock"
_held: dict[Path, TextIO] = {}
"""The locks of this process: a lock ends when its file is closed."""


def claim(output_dir: str | Path) -> None:
    """Make `output_dir` and let it be this run's alone. Collective.

    Raises TrainingError, naming the other run, where that still writes there.
    """
    refusal = broadcast_object(_lock(Path(output_dir)) if is_main() else None)
    if refusal:
        raise TrainingError(refusal)


def _lock(folder: Path) -> str | None:
    """Why the folder cannot be had, or None."""
    folder.mkdir(parents=True, exist_ok=True)
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
