"""Whether the command that launched this rank is still there: once it has ended, nobody knows of the ranks any more.

`deepspeed` starts launch.py, on every node, and that starts the ranks. Killed by whatever signal, `deepspeed` takes
nobody along: launch.py and the ranks would go on as orphans, keep the GPUs, and lock the run's folder. So a rank looks
at both its parent and the parent of launch.py. Under torchrun the parent is the agent.

A rank that no launcher started may outlive its parent: so does a run of one process after `nohup` and a logout.
"""

import os

import psutil

LAUNCH = "deepspeed.launcher.launch"
"""The module of DeepSpeed that starts the ranks of a node, as its command line has it."""

# Hidden state: processes of this node, this one among them, each with the parent that it had at the start.
_parents: list[tuple[int, int]] = []


def remember_launcher() -> None:
    """Remember the processes that launched this one, if a launcher did. Call this as early as possible."""
    _parents.clear()
    here, parent = os.getpid(), os.getppid()
    try:
        if LAUNCH in psutil.Process(parent).cmdline():
            _parents.extend([(here, parent), (parent, psutil.Process(parent).ppid())])
        elif "TORCHELASTIC_RUN_ID" in os.environ:
            _parents.append((here, parent))
    except psutil.Error:  # it may not be looked at: another user's, or gone within the first second
        return


def launcher_gone() -> bool:
    """Return whether a process that launched this one has ended. It takes some microseconds."""
    return any(_parent(process) != parent for process, parent in _parents)


def _parent(process: int) -> int | None:
    """Return the parent of a process; None if the process has ended."""
    try:
        return psutil.Process(process).ppid()
    except psutil.Error:
        return None
