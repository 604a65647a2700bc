"""DeepSpeed's compilation of its operations, which takes a minute and must neither be silent nor wait for ever.

On a CPU, DeepSpeed compiles an operation at the first start. PyTorch keeps others away from it by a lock file, which
stays behind when the process that made it is killed: every later start would wait for it without a word.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import psutil

from ..distributed import log
from ..errors import ClusterError

OPERATION = "deepspeed_shm_comm"
"""What is compiled: the collectives of ranks on one node, over shared memory."""
ANNOUNCE = 5.0
"""Seconds after which a compilation is told: one that lies ready is loaded in less."""
PATIENCE = 30.0
"""Seconds after which the lock is named."""
STALE = 300.0
"""Seconds after which a lock that no process of this node holds is taken for one that was left behind: younger ones may
be of another node, where the folder is shared."""


@contextmanager
def told_compilation(single_node: bool) -> Iterator[None]:
    """Say while the block runs that it compiles, and after PATIENCE seconds for which lock it waits.

    Args:
        single_node: whether all ranks are on this node, where a lock that nobody holds was left behind.

    Raises:
        ClusterError: a process that was killed has left its lock behind.
    """
    lock = lock_file()
    refuse_stale(lock, single_node)
    done = threading.Event()

    def tell() -> None:
        """Speak after ANNOUNCE seconds, and again where a lock has been there for PATIENCE seconds."""
        if done.wait(ANNOUNCE):
            return
        log.info(f"compiling DeepSpeed's {OPERATION} in {lock.parent}: once, about a minute")
        began = time.monotonic()
        while not done.wait(1):
            if time.monotonic() - began > PATIENCE - ANNOUNCE and lock.exists():
                holder = _holder(lock)
                who = f"process {holder} holds" if holder else "no process of this node holds"
                log.warning(f"still waiting for {lock}, which {who}: delete it if nothing compiles")
                return

    threading.Thread(target=tell, daemon=True, name="compilation").start()
    try:
        # It prints that it has built what it only loads.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        done.set()


def lock_file() -> Path:
    """Return the path of the lock that PyTorch takes while OPERATION is compiled."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(OPERATION, verbose=False)) / "lock"


def refuse_stale(lock: Path, single_node: bool) -> None:
    """Raise ClusterError if a lock was left behind by a process that is gone; arguments as for `told_compilation`."""
    try:
        age = time.time() - lock.stat().st_mtime
    except OSError:
        return
    if (single_node or age > STALE) and _holder(lock) is None and lock.exists():
        raise ClusterError(
            f"{lock} was left behind {age:.0f} s ago by a start that was killed while it compiled, and every start "
            "would wait for it: delete the file"
        )


def _holder(path: Path) -> int | None:
    """Return a process of this node that has a file open, or None as far as this user may know."""
    for process in psutil.process_iter():
        try:
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                if os.readlink(link) == str(path):
                    return process.pid
        except OSError:  # it is gone, or somebody else's
            continue
    return None
