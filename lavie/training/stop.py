"""How a process of a run leaves: with which exit code, after which message, and in good order."""

import atexit
import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from ..cluster.hang import Cause
from ..errors import LavieError, LostRankError
from . import signals

STOPPED = 85
"""Exit code of a run that was asked to stop, and is to be started again. launch/env.sh knows this code and FAILED."""
LOST = int(Cause.LOST)
"""Exit code of a rank that has lost another. It is below FAILED because srun reports the largest code of all ranks, and
the code of the rank that was lost says more. The codes of hung runs are just below it: lavie/cluster/hang.py."""
ALONE = 5.0
"""Seconds after which a rank that fails before there is a process group takes itself for the only one: the slowest of
the launchers, srun, needs one or two to end the others."""
FAILED = 200
"""Exit code of a run that would fail again: another LavieError. Larger than that of the ranks which are ended because
of it, 128 + SIGTERM."""


def exit_code(error: Exception) -> int:
    """Return the code with which a rank leaves after an error: 1, as Python's own, if the user cannot mend it."""
    if isinstance(error, LostRankError):
        return LOST
    return FAILED if isinstance(error, LavieError) else 1


def report(error: Exception) -> int:
    """Print a LavieError's message, or another error's traceback, and return the exit code.

    Where ranks fail with the same message, and their group still lives to agree on it, the lowest prints it for all.
    For that, they wait for one another for a few seconds. A message names its ranks, unless there is only one rank.
    Before there is a group, rank 0 speaks for all, see `_ended_by_launcher`.

    After Ctrl-C and SIGTERM, what else fails does so because of it, as compilers and other ranks that got it too.
    """
    if (cause := signals.interruption()) and not isinstance(error, LavieError):
        first_line = next(iter(str(error).splitlines()), "")[:200]
        told = f"{cause[0]}, steps since the last checkpoint are lost: {type(error).__name__}: {first_line}"
        print(told, file=sys.stderr, flush=True)
        return cause[1]
    if isinstance(error, LavieError):
        _tell(error)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    return exit_code(error)


def _tell(error: LavieError) -> None:
    """Print an error's message, if this is the lowest of the ranks that have it, as far as they know."""
    from ..launcher import launched_rank, name_ranks

    message = f"{type(error).__name__}: {error}"
    try:
        place = launched_rank()
    except LavieError:  # may be the very error that is to be told
        print(message, file=sys.stderr)
        return
    ranks = [place.rank]
    if exit_code(error) == FAILED and _in_group():
        from .deepspeed import ranks_that_fail_alike

        # A launcher ends the others as soon as the first rank has left, which may have failed by this one's error.
        signals.ignore_termination()
        ranks = ranks_that_fail_alike(message)
    elif exit_code(error) == FAILED and place.rank and _ended_by_launcher(ALONE * (2 if place.local_rank else 1)):
        return
    if place.rank == ranks[0]:
        who = f"{name_ranks(ranks, place.world_size)}: " if place.world_size > 1 else ""
        print(who + message, file=sys.stderr, flush=True)


def _ended_by_launcher(patience: float) -> bool:
    """Wait until the launcher ends this rank by SIGTERM, and return whether it does so within `patience` seconds.

    A rank without a group cannot ask the others whether they fail alike, as they do for a mistake on the command line.
    But launchers end all ranks as soon as the first one has failed, so a rank that is ended while it waits knows that
    another has told why. One that is not, say because a file lacks on its node alone, has to tell it itself. The first
    rank of a node does so before the others of that node, which see the same files.
    """
    ended: list[int] = []
    signals.set_deaf()
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    deadline = time.monotonic() + patience
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(ended)


def leave(code: int) -> NoReturn:
    """Leave the process group, if this process is in one, and end the process with an exit code.

    All that was registered for the exit is done and all output written, but a process that was in a group does without
    the interpreter's finalization. Its collectives ran in C++ threads, and ending the group does not end those: hooks
    of DeepSpeed keep the engine for good, and every parameter of ZeRO 3 holds the group. A thread that has still to let
    go of the last collective's tensors needs the GIL for it. Once the interpreter is being finalized, asking for the
    GIL ends a thread, and to end in a destructor is SIGABRT in place of the exit code (PyTorch's issue 190489).
    """
    # A launcher ends the others as soon as the first rank has left; from here on, this one's own code is to count.
    signals.ignore_termination()
    if not _in_group():
        sys.exit(code)
    from .deepspeed import end_distributed

    end_distributed()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # nobody reads, or somebody has closed them
        sys.stdout.flush()
        sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what C and C++ have printed
    os._exit(code)


def _in_group() -> bool:
    """Return whether this process is in a process group. Does not import torch, which takes seconds."""
    if "torch" not in sys.modules:
        return False
    from ..distributed import initialized

    return initialized()
