"""The signals by which a run is asked to stop: heard at any time, and answered between steps.

1. SIGUSR2 comes from a scheduler before a job's time is up or its nodes are taken away. It is blocked and asked for
   between steps: it interrupts no save and no collective. The processes that a rank starts (decoding workers,
   compilers) inherit the mask, so a signal to a whole job ends none of them either. It is USR2, for NCCL may take USR1
   for itself.
2. The first Ctrl-C asks the same, and a second one ends the process at once.
3. Where the command that launched the ranks has been killed, nobody would end them: that asks the same.
4. SIGTERM comes from Kubernetes, `docker stop`, systemd, spot instances and `kill`, with a SIGKILL some time later. It
   asks the same, so that the steps since the last checkpoint are not lost. But launchers send it too where another rank
   has failed, and then no step may ever end. Therefore SIGTERM ends the process
   - at once, as it does without this module, before the first step: there is nothing to save;
   - at once where another rank of this node has ended;
   - where the ranks have not agreed to stop within GRACE seconds, or twice the longest time between two steps so far
     if that is longer: what takes longer is taken to wait for a rank that is gone.
5. Once the ranks have agreed to stop, SIGTERM has nothing to add, and does nothing.

A thread hears SIGINT and SIGTERM, so that they count in the middle of whatever hangs.
"""

import ctypes
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import NoReturn

import psutil

from ..cluster.front_end import launcher_gone, remember_launcher

SIGNAL = signal.SIGUSR2
"""The request to stop that nothing but a scheduler or a person sends."""
INTERRUPTED = 130
"""Exit code of a process that a second Ctrl-C ends at once, as shells have it: 128 + SIGINT."""
TERMINATED = 143
"""Exit code of a process that SIGTERM ends, as shells have it: 128 + SIGTERM."""
GRACE = 20.0
"""Seconds that ranks have to agree to stop after SIGTERM, at least: launchers, SLURM and Kubernetes send SIGKILL after
30."""
TOGETHER = 0.1
"""Seconds within which signals count as sent together."""
ECHO = 2.0
"""Seconds after Ctrl-C in which another SIGINT is the same one, passed on: torchrun does so."""


@dataclass
class _Heard:
    """What this process has heard, and what it knows to judge SIGTERM by."""

    interrupted: threading.Event = field(default_factory=threading.Event)
    """Ctrl-C asked to stop."""
    terminated: threading.Event = field(default_factory=threading.Event)
    """SIGTERM asked to stop."""
    deaf: threading.Event = field(default_factory=threading.Event)
    """SIGTERM ends this process no more."""
    neighbours: list[int] | None = None
    """The process ids of this node's other ranks; None before the training has begun."""
    between: float = math.inf
    """When the run was last between two steps, by the monotonic clock."""
    longest: float = 0.0
    """The most seconds from there to the next time."""


# Hidden state: signals are the process's, and what they say is known in all of it.
_heard = _Heard()


def listen() -> None:
    """Block SIGUSR2, so that the signal waits until `asked` looks for it, and remember who launched this process.

    Call this before torch is imported: the threads of torch inherit the mask.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    remember_launcher()


def catch() -> None:
    """Let Ctrl-C and SIGTERM ask the run to stop after its step, see the module's docstring.

    A process that was started to ignore one of them goes on ignoring it, as those in the background of a script do with
    SIGINT. Call this in the main thread, before others are started.
    """
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)  # the thread decides
    threading.Thread(target=_hear, args=(reader,), daemon=True, name="signals").start()

    # That thread alone gets SIGINT: the processes that the others start inherit their mask, and are deaf to it, too.
    # multiprocessing would take the signal out of the mask again when it starts its tracker, so that comes first.
    if signal.SIGINT in numbers:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def begin(neighbours: Iterable[int]) -> None:
    """Let SIGTERM ask from here on, rather than end the process: the training begins.

    Args:
        neighbours: the process ids of this node's other ranks.
    """
    _heard.neighbours = [process for process in neighbours if lives(process)]  # a container may not see them


def asked() -> bool:
    """Return whether this process was asked to stop, or has lost its launcher. To be called between steps."""
    now = time.monotonic()
    _heard.longest, _heard.between = max(_heard.longest, now - _heard.between), now
    return _heard.interrupted.is_set() or _heard.terminated.is_set() or SIGNAL in signal.sigpending() or _orphaned()


def interruption() -> tuple[str, int] | None:
    """Return what has asked this process to end and the exit code for it, in whose wake other errors come.

    None where nothing has, or SIGUSR2, after which nothing else ends.
    """
    if _heard.interrupted.is_set():
        return "interrupted", INTERRUPTED
    return ("ended by SIGTERM", TERMINATED) if _heard.terminated.is_set() else None


def set_deaf() -> None:
    """Let the thread that hears SIGTERM do nothing about it any more; another handler may be set for it then."""
    _heard.deaf.set()


def ignore_termination() -> None:
    """Let SIGTERM end this process no more."""
    set_deaf()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def lives(process: int) -> bool:
    """Return whether a process of this id runs on this machine; one that has ended and awaits its parent does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _orphaned() -> bool:
    """Return whether the command that launched this rank has ended, and say so from one rank of the node."""
    if not launcher_gone():
        return False
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):  # who read it may have ended, too
            print("the launcher has ended: the run saves after this step and stops", file=sys.stderr, flush=True)
    return True


def _hear(reader: int) -> None:
    """Answer the signals whose numbers come out of a pipe; of those that come together, Ctrl-C first."""
    first, deadline = 0.0, math.inf
    while True:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            if not _heard.deaf.is_set():
                _end(f"the ranks have not agreed to stop within {_patience():.0f} s, and what is not saved is lost")
            deadline = math.inf
            continue

        # Threads take signals in any order: the SIGTERM that a launcher sends on Ctrl-C may come out before it.
        time.sleep(TOGETHER)
        for number in sorted(os.read(reader, 64)):
            if number == signal.SIGINT and not _heard.interrupted.is_set():
                first = time.monotonic()
                _heard.interrupted.set()
                set_deaf()
                _tell("Ctrl-C: the run saves after this step and stops; once more ends it at once")
            elif number == signal.SIGINT and time.monotonic() - first > ECHO:
                os._exit(INTERRUPTED)
            elif number == signal.SIGTERM and not _heard.deaf.is_set():
                if _heard.neighbours is None or not all(map(lives, _heard.neighbours)):
                    _end()
                _heard.terminated.set()
                deadline = min(deadline, time.monotonic() + _patience())


def _patience() -> float:
    """Return how many seconds after SIGTERM a run that does not hang is between two steps again, for sure."""
    return max(GRACE, 2 * _heard.longest)


def _tell(text: str) -> None:
    """Print a line on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        print(f"\n{text}", file=sys.stderr, flush=True)


def _end(why: str = "") -> NoReturn:
    """End this process as SIGTERM does where nobody hears it, and say why, if there is more to say."""
    if why:
        _tell(f"SIGTERM: {why}")

    # Only the main thread may call signal.signal, and it may be waiting for another rank.
    ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGTERM), ctypes.c_void_p(signal.SIG_DFL))
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(TERMINATED)  # the first process of a container, which its own signals do not end
