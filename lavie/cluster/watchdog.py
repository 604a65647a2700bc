"""A thread per rank that finds out why a run hangs, says so, and ends the rank with an exit code for the cause.

1. The main thread says which section it enters. Every BEAT seconds the thread leaves that in the run's store.
2. A rank that is over the limit of its section, or has lost the connection to another, raises the alarm there.
3. Every rank that lives answers the alarm by where it is, with its stack. A rank that is stopped does not.
4. The rank that has raised the alarm waits ANSWER seconds for the answers, judges them (hang.py), and leaves the
   verdict, by which all ranks end; or it goes on with a warning, if it has got over what it was at.

Rank 0 keeps the store: where that does not answer, each rank that is over its limit says so for itself. A beat is three
short exchanges with it, and only the rank that judges reads what all have left.
"""

import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, Self, TypeVar

import psutil
import torch.distributed as dist
from torch import nn

from ..config.watchdog import WatchdogConfig
from ..distributed import log, rank, world_size
from .hang import Cause, Missing, Verdict, judge
from .sighting import Sighting, read_frames

BEAT = 1.5
"""Seconds between two beats, within which a rank also learns of an alarm."""
ANSWER = 4.0
"""Seconds that a rank has to answer: two beats, and some for a node with much to do."""
PATIENCE = 2 * ANSWER
"""Seconds that a rank waits for a verdict, and rank 0 for those that have yet to read it."""
SLEPT = 5.0
"""Seconds more than a beat after which this process itself has not run: it was stopped, and its clocks do not count."""
BROKEN = re.compile(r"closed by peer|reset by peer|broken pipe|timed out|connection refused|remote peer|aborted", re.I)
"""What PyTorch's errors say of a connection to a rank that has ended or hangs."""

T = TypeVar("T")


class _SilentStoreError(Exception):
    """The store of rank 0 does not answer; its argument is whether that is because nobody keeps it any more."""


class Watchdog:
    """Watches the main thread of this rank from `with` on. All ranks enter it together, in the thread to be watched."""

    _runs = itertools.count()
    """How often a watchdog was made in this process: each has keys of its own in the store."""

    def __init__(self, limits: WatchdogConfig) -> None:
        """Watch by the limits of a run."""
        self._limits, self._rank, self._ranks = limits, rank(), world_size()
        self._main, self._host = threading.get_ident(), socket.gethostname()
        self._store: Any = None
        if self._ranks > 1:
            # A connection of its own: a call of the main thread that waits for another rank would hold it up.
            default: Any = dist.distributed_c10d._get_default_store()  # its stub does not know `clone`
            store = default.clone()
            store.set_timeout(timedelta(seconds=ANSWER))
            self._store = dist.PrefixStore(f"watchdog/{next(self._runs)}", store)

        self._here: tuple[str, int, float] = ("start", 0, time.monotonic())
        """Section, step, and when the main thread entered it or came back to it."""
        self._block = ""
        self._names: dict[int, str] = {}
        self._warm = False
        """Whether a step is done, so that what it needed is compiled."""
        self._alarms = 0
        """Alarms that came to nothing."""
        self._lost = threading.Event()
        """Set while the main thread asks who is behind an error of a connection, whose first line is `_error`."""
        self._error = ""
        self._store_ended = False
        self._asking: threading.Thread | None = None
        self._first: Sighting | None = None
        """Where rank 0 was last."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Self:
        """Start to watch."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no more; a rank that leaves because of an error tells the others that it answers no more."""
        self._done.set()
        self._thread.join(2 * ANSWER)
        if self._store and self._here[0] != "between":
            with suppress(_SilentStoreError):
                self._ask(lambda: self._store.set(f"bye/{self._rank}", ""))

    def follow(self, network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
        """Know the modules of a network by name, and which of its blocks was entered last."""
        for name, module in network.named_modules():
            self._names[id(module)] = name
            if isinstance(module, blocks):
                module.register_forward_pre_hook(lambda *_, name=name: setattr(self, "_block", name))

    @contextmanager
    def section(self, name: str, step: int | None = None) -> Iterator[None]:
        """Be in a section, a key of the config's `watchdog`, while the block runs, and in the one around it afterwards.

        An error of a connection to another rank ends this process with its diagnosis, if a rank has ended or hangs.

        Args:
            name: the section.
            step: the step, counted from 1; default: that of the section around it.
        """
        outer, outer_step, _ = self._here
        first = name == "step" and not self._warm
        self._here = ("first_step" if first else name, outer_step if step is None else step, time.monotonic())
        try:
            yield
        except RuntimeError as error:
            if self._store and BROKEN.search(str(error)):
                self._error = str(error).splitlines()[0]
                self._find_the_lost()
            raise
        self._warm = self._warm or first
        self._block = ""
        self._here = ("between" if outer == "start" else outer, self._here[1], time.monotonic())

    def _find_the_lost(self) -> None:
        """Let the thread ask the other ranks where they are; return if all of them answer."""
        self._lost.set()
        deadline = time.monotonic() + BEAT + 3 * ANSWER
        while self._lost.is_set() and time.monotonic() < deadline:
            time.sleep(0.1)

    # --- what the thread does

    def _watch(self) -> None:
        """Beat and look at the limits until the run is done."""
        while True:
            before = time.monotonic()
            if self._done.wait(BEAT):
                return
            if (slept := time.monotonic() - before - BEAT) > SLEPT:
                section, step, since = self._here
                self._here = section, step, since + slept

            over = self._over() or self._lost.is_set()
            if not self._store:
                if over:
                    self._end(judge([self._look()]), told=True)
                continue
            try:
                raised = self._ask(self._beat)
                if over or raised:
                    self._answer_alarm(over)
            except _SilentStoreError as silence:
                if over:
                    state = "gone" if silence.args[0] else self._state(self._first)
                    self._end(judge([self._look()], [Missing(0, self._first, state)]), told=True)

    def _over(self) -> bool:
        """Return whether the main thread is over the limit of its section."""
        section, _, since = self._here
        limit = float(getattr(self._limits, section))
        return 0 < limit < time.monotonic() - since

    def _sighting(self, **more: Any) -> Sighting:
        """Return where the main thread says that it is."""
        section, step, since = self._here
        fields = {"module": self._block, **more}
        return Sighting(self._rank, self._host, os.getpid(), section, step, time.monotonic() - since, **fields)

    def _look(self) -> Sighting:
        """Return where the main thread is, with what its frames tell."""
        if self._lost.is_set():
            return self._sighting(waits=f"a collective, which ended with: {self._error}")
        read = read_frames(self._main, self._names)
        return self._sighting(**{**read, "module": read.get("module") or self._block})

    def _ask(self, question: Callable[[], T]) -> T:
        """Return what a question to the store gives, within ANSWER seconds.

        Raises:
            _SilentStoreError: it gives nothing in that time, or the connection is lost.
        """
        answers: list[T] = []
        errors: list[RuntimeError] = []

        def ask() -> None:
            """Leave the answer in `answers`, or the error in `errors`."""
            try:
                answers.append(question())
            except RuntimeError as error:  # what torch.distributed raises derives from it
                errors.append(error)

        # A question that is still open holds the connection: another one would wait behind it. Each to a store that has
        # ended would print a trace of C++.
        if self._store_ended:
            raise _SilentStoreError(True)
        if not (self._asking and self._asking.is_alive()):
            self._asking = threading.Thread(target=ask, daemon=True, name="watchdog asks")
            self._asking.start()
        self._asking.join(ANSWER)
        if not answers:
            self._store_ended = any(isinstance(error, dist.DistNetworkError) for error in errors)
            raise _SilentStoreError(self._store_ended)
        return answers[0]

    def _beat(self) -> bool:
        """Leave where this rank is, learn where rank 0 was, and return whether there is an alarm."""
        self._store.set(f"beat/{self._rank}", self._sighting().dumps())
        if self._rank and self._store.check(["beat/0"]):
            self._first = Sighting.loads(self._store.get("beat/0"))
        return self._store.check([f"alarm/{self._alarms}"])

    def _answer_alarm(self, over: bool) -> None:
        """Raise the alarm or answer it, and do as the verdict says.

        Args:
            over: whether this rank has a reason for an alarm.
        """
        number, here = self._alarms, self._here
        answer = self._look()
        raiser = self._ask(lambda: self._raise(number, answer))
        if raiser == self._rank:
            verdict = self._judge_answers(number)
            if not self._lost.is_set() and self._here != here:
                log.warning(f"watchdog: {answer.doing}, over its limit: it went on by itself. Is the limit too low?")
                verdict = None
            elif self._lost.is_set() and verdict and verdict.cause not in (Cause.SILENT, Cause.LOST):
                verdict = None  # all ranks live: the error is this rank's own
            if verdict:
                print(verdict.text, file=sys.stderr, flush=True)
            ending = verdict.dumps() if verdict else "null"
            self._ask(lambda: self._store.set(f"verdict/{number}", ending))
        else:
            self._await_verdict(number, raiser)
            verdict = self._read_verdict(number)
        self._alarms += 1
        self._lost.clear()
        if verdict:
            self._end(verdict)

    def _raise(self, number: int, answer: Sighting) -> int:
        """Raise an alarm, unless another rank has, leave this rank's answer, and return the rank that has raised it."""
        raiser = self._store.compare_set(f"alarm/{number}", "", str(self._rank))
        self._store.set(f"answer/{number}/{self._rank}", answer.dumps())
        return int(raiser)

    def _judge_answers(self, number: int) -> Verdict | None:
        """Wait for the answers to an alarm, and return what they mean."""
        ranks, deadline = range(self._ranks), time.monotonic() + ANSWER
        missing = list(ranks)
        lost: list[Missing] = []

        def silent() -> list[int]:
            """Return those of `missing` that have not answered yet."""
            return [r for r in missing if not self._store.check([f"answer/{number}/{r}"])]

        while missing and time.monotonic() < deadline:
            time.sleep(0.2)
            missing = self._ask(silent)

            # Where the last ones have ended, nothing is to be waited for.
            lost = [self._missing(r) for r in missing] if len(missing) <= 8 else []
            if lost and all(m.state == "gone" for m in lost):
                break
        present = [f"answer/{number}/{r}" for r in ranks if r not in missing]
        answers = [Sighting.loads(text) for text in self._ask(lambda: self._store.multi_get(present))]
        return judge(answers, lost or [self._missing(r) for r in missing])

    def _missing(self, number: int) -> Missing:
        """Return what is known of a rank that does not answer."""
        key = f"beat/{number}"
        said = self._ask(lambda: self._store.get(key) if self._store.check([key]) else None)
        last = Sighting.loads(said) if said else None
        bye = self._ask(lambda: self._store.check([f"bye/{number}"]))
        return Missing(number, last, "gone" if bye else self._state(last))

    def _state(self, last: Sighting | None) -> str:
        """Return whether the process of a rank is gone or stopped, as far as this node can tell."""
        if last is None or last.node != self._host:
            return ""
        try:
            status = psutil.Process(last.pid).status()
        except psutil.Error:
            return "gone"
        states = {psutil.STATUS_ZOMBIE: "gone", psutil.STATUS_DEAD: "gone", psutil.STATUS_STOPPED: "stopped"}
        return states.get(status, "")

    def _await_verdict(self, number: int, raiser: int) -> None:
        """Wait for the verdict of the rank that has raised an alarm."""
        key, deadline = f"verdict/{number}", time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not self._ask(lambda: self._store.check([key])):
            time.sleep(0.2)
        if time.monotonic() >= deadline:
            self._end(judge([self._look()], [self._missing(raiser)]), told=True)

    def _read_verdict(self, number: int) -> Verdict | None:
        """Return the verdict of another rank, which has told its text; None if the run goes on."""
        return Verdict.loads(self._ask(lambda: self._store.get(f"verdict/{number}")))

    def _end(self, verdict: Verdict, told: bool = False) -> NoReturn:
        """End this process, whatever its main thread is at.

        Args:
            verdict: why.
            told: whether its text is for this rank to print.
        """
        if told:
            # Where each rank speaks for itself, one stack is enough.
            text = verdict.text if self._rank <= 1 else "\n".join(verdict.text.splitlines()[:2])
            print(f"rank {self._rank}: {text}", file=sys.stderr, flush=True)

        # The store ends with rank 0, which therefore stays until the others have read the verdict.
        if self._store and 0 not in verdict.missing:
            with suppress(_SilentStoreError):
                self._ask(lambda: self._store.add("left", 1))
                deadline = time.monotonic() + PATIENCE
                while self._rank == 0 and time.monotonic() < deadline:
                    if self._ask(lambda: self._store.add("left", 0)) >= self._ranks - len(verdict.missing):
                        break
                    time.sleep(0.1)

        # A stopped process heeds the SIGTERM of the launcher, or the verdict, only when it runs again.
        for node, process in verdict.stopped:
            if node == self._host:
                with suppress(OSError):
                    os.kill(process, signal.SIGCONT)
        os._exit(verdict.cause)
