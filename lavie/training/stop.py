"""How a process of a run leaves: its exit code, and the requests to stop, SIGUSR2 and the first Ctrl-C.

A scheduler sends SIGUSR2 before a job's time is up or its nodes are taken away. The signal is blocked and asked for
between steps: it interrupts no save and no collective. The processes that a rank starts (decoding workers, compilers)
inherit the mask, so a signal to a whole job ends none of them either. It is USR2, for NCCL may take USR1 for itself.
Ctrl-C is heard by a thread of its own, and asked for between steps too.
"""

import atexit
import ctypes
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, NoReturn

from ..cluster.front_end import launcher_gone, remember_launcher
from ..cluster.hang import Cause
from ..errors import LavieError, LostRankError

if TYPE_CHECKING:
    import torch

SIGNAL = signal.SIGUSR2
"""The request to stop."""
STOPPED = 85
"""Exit code of a run that was asked to stop, and is to be started again. launch/env.sh knows this code and FAILED."""
LOST = int(Cause.LOST)
"""Exit code of a rank that has lost another. It is below FAILED because srun reports the largest code of all ranks, and
the code of the rank that was lost says more. The codes of hung runs are just below it: lavie/cluster/hang.py."""
INTERRUPTED = 130
"""Exit code of a process that a second Ctrl-C ends at once, as shells have it: 128 + SIGINT."""
ALONE = 5.0
"""Seconds after which a rank that fails before there is a process group takes itself for the only one: the slowest of
the launchers, srun, needs one or two to end the others."""
TOGETHER = 0.1
"""Seconds within which signals count as sent together."""
ECHO = 2.0
"""Seconds after Ctrl-C in which another SIGINT is the same one, passed on: torchrun does so."""
FAILED = 200
"""Exit code of a run that would fail again: another LavieError. Larger than that of the ranks which are ended because
of it, 128 + SIGTERM."""


def listen() -> None:
    """Block SIGUSR2, so that the signal waits until `requested` asks for it, and remember who launched this process.

    Call this before torch is imported: the threads of torch inherit the mask.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    remember_launcher()


# Hidden state: whether this process got Ctrl-C, and whether SIGTERM ends it no more.
_interrupted = threading.Event()
_deaf = threading.Event()


def catch_interrupts() -> None:
    """Let the first Ctrl-C ask the run to stop after its step, and a second one end this process at once.

    A thread hears of SIGINT and SIGTERM, so that they count in the middle of whatever hangs. SIGTERM ends the process
    as it does without this function, but not after Ctrl-C: launchers get that as well, and end their ranks at once.

    A process that was started to ignore SIGINT, as those in the background of a script are, goes on ignoring it. Call
    this in the main thread, before others are started.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the thread decides
    threading.Thread(target=_hear, args=(reader,), daemon=True, name="interrupts").start()

    # That thread alone gets SIGINT: the processes that the others start inherit their mask, and are deaf to it, too.
    # multiprocessing would take the signal out of the mask again when it starts its tracker, so that comes first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _hear(reader: int) -> None:
    """Answer the signals whose numbers come out of a pipe; of those that come together, Ctrl-C first."""
    first = 0.0
    while True:
        # Threads take signals in any order: the SIGTERM that a launcher sends on Ctrl-C may come out before it.
        select.select([reader], [], [])
        time.sleep(TOGETHER)
        for number in sorted(os.read(reader, 64)):
            if number == signal.SIGINT and not _interrupted.is_set():
                first = time.monotonic()
                _interrupted.set()
                _deaf.set()
                if os.environ.get("RANK", "0") == "0":
                    told = "\nCtrl-C: the run saves after this step and stops; once more ends it at once"
                    print(told, file=sys.stderr, flush=True)
            elif number == signal.SIGINT and time.monotonic() - first > ECHO:
                os._exit(INTERRUPTED)
            elif number == signal.SIGTERM and not _deaf.is_set():
                # Only the main thread may call signal.signal, and it may be waiting for another rank.
                ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGTERM), ctypes.c_void_p(signal.SIG_DFL))
                os.kill(os.getpid(), signal.SIGTERM)


def _ignore_termination() -> None:
    """Let SIGTERM end this process no more."""
    _deaf.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


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

    After Ctrl-C, what else fails does so because of it, as compilers that got it too.
    """
    if _interrupted.is_set() and not isinstance(error, LavieError):
        print(f"interrupted, nothing saved: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return INTERRUPTED
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
        _ignore_termination()
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
    _deaf.set()  # the thread of catch_interrupts must not end this process
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
    _ignore_termination()
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


def requested(device: "torch.device") -> bool:
    """Return whether any rank has got SIGUSR2 or Ctrl-C or lost its launcher, the same on all ranks. Collective.

    After a yes, SIGTERM is ignored. It has nothing to add while the last step is saved, and SLURM sends it to all ranks
    as soon as the first one has left with an exit code that is not 0.
    """
    import torch  # here, not above: see listen

    from ..distributed import sum_over_ranks

    here = _interrupted.is_set() or SIGNAL in signal.sigpending() or _orphaned()
    asked = torch.tensor(float(here), device=device)
    if not sum_over_ranks(asked).item():
        return False
    _ignore_termination()
    return True


def _orphaned() -> bool:
    """Return whether the command that launched this rank has ended, and say so from one rank of the node."""
    if not launcher_gone():
        return False
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):  # who read it may have ended, too
            print("the launcher has ended: the run saves after this step and stops", file=sys.stderr, flush=True)
    return True
