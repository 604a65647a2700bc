"""DeepSpeed's compilation of its operations, which takes a minute and must neither be silent nor wait for ever.

On a CPU, DeepSpeed compiles an operation at the first start. PyTorch keeps others away from it by a lock file, which
stays behind when the process that made it is killed: every later start would wait for it without a word. So a start
says for whom it waits, and takes the lock over where its owner is gone. Owners of runs write their host and process
into it.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import psutil

from ..distributed import log
from ..errors import ClusterError

OPERATION = "deepspeed_shm_comm"
"""What is compiled: the collectives of ranks on one node, over shared memory."""
ANNOUNCE = 5.0
"""Seconds after which a compilation, or the wait for another's, is told: one that lies ready is loaded in less."""
PAUSE = 0.2
"""Seconds between two looks at the lock."""
STALE = 300.0
"""Seconds after which a lock whose owner nobody on this node can see is taken for one that was left behind: younger
ones may be of another node, where the folder is shared."""


@contextmanager
def told_compilation(single_node: bool) -> Iterator[None]:
    """Wait aloud until nobody else compiles, and say while the block runs that it compiles.

    Args:
        single_node: whether all ranks are on this node, where a lock that nobody holds was left behind.

    Raises:
        ClusterError: a lock was left behind that this user may not delete.
    """
    lock = lock_file()
    await_lock(lock, single_node)
    done = threading.Event()

    def tell() -> None:
        """Sign the lock as soon as this process has it, and speak after ANNOUNCE seconds."""
        began, signed, told = time.monotonic(), False, False
        while not done.wait(PAUSE):
            if not signed and _holder(lock) == os.getpid():
                signed = _sign(lock)
            if not told and time.monotonic() - began > ANNOUNCE:
                told = True
                log.info(f"compiling DeepSpeed's {OPERATION} in {lock.parent}: once, about a minute")

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


def await_lock(lock: Path, single_node: bool) -> None:
    """Wait until a lock is gone, aloud, or delete it where it was left behind; arguments as for `told_compilation`."""
    began, told = time.monotonic(), False
    while lock.exists() and not _take_over(lock, single_node):
        if not told and time.monotonic() - began > ANNOUNCE:
            told = True
            log.warning(f"compiling: waiting for {lock}, which {_who(lock)} holds; delete it if nothing compiles")
        time.sleep(PAUSE)


def _take_over(lock: Path, single_node: bool) -> bool:
    """Delete a lock whose owner is gone, and return whether it was so.

    One process at a time looks and deletes: a second one could delete the lock that another has taken in between.
    """
    if _age_if_stale(lock, single_node) is None:
        return False
    try:
        with lock.with_name("lock.taken_over").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            age, who = _age_if_stale(lock, single_node), _who(lock)
            if age is None:
                return False
            lock.unlink()
    except PermissionError:
        raise ClusterError(
            f"{lock} was left behind by a start that was killed while it compiled, every start would wait for it, and "
            "this user may not delete it: delete the file, or set TORCH_EXTENSIONS_DIR to a folder of your own"
        ) from None
    log.warning(f"{lock} was left behind {age:.0f} s ago by {who}, which is gone: taken over")
    return True


def _age_if_stale(lock: Path, single_node: bool) -> float | None:
    """Return the seconds since a lock was made if its owner is gone; None if it is there, or may be, or no lock is."""
    try:
        status = lock.stat()
    except OSError:
        return None
    age, owner = time.time() - status.st_mtime, _owner(lock)
    seen = os.geteuid() in (0, status.st_uid)  # of another user's processes, nobody sees which files they have open
    here = owner[0] == socket.gethostname() if owner else single_node
    gone = _holder(lock) is None and (age > STALE or (here and seen))
    return age if gone else None


def _sign(lock: Path) -> bool:
    """Write this host and process into a lock that this process holds, and return whether that was possible."""
    with suppress(OSError), lock.open("r+") as file:  # r+ makes no lock where it has just been released
        file.write(f"{socket.gethostname()} {os.getpid()}")
        return True
    return False


def _owner(lock: Path) -> tuple[str, int] | None:
    """Return the host and the process that have signed a lock; None where nobody has."""
    try:
        host, process = lock.read_text(errors="replace").split()
        return host, int(process)
    except (OSError, ValueError):
        return None


def _who(lock: Path) -> str:
    """Return in words who made a lock, as far as it is known."""
    if owner := _owner(lock):
        return f"process {owner[1]} of {owner[0]}"
    holder = _holder(lock)
    return f"process {holder} of this node" if holder else "a process that is not known"


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
