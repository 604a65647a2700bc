"""A fault at every system call of a save: the process is killed there, or the call fails.

1. A folder is prepared, in which one version is whole, and a worker is asked to save another one.
2. strace lists the calls of this save that concern the run's folder.
3. For each call, the folder is prepared anew and the same save made, with the fault at this call.
4. What a start finds afterwards must be the old version or the new one, to the bit. A worker that was not killed must
   tell whether it has saved, and the next save must succeed.
"""

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.training.torture.subjects import Found
from tests.training.torture.worker import Died, Worker

CALLS = (
    *("openat", "write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate"),
    *("rename", "renameat", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"),
)
"""The system calls at which a fault is tried; those of them that a save makes."""
KILL = "SIGKILL"
ERRORS = ("ENOSPC", "EIO", "EDQUOT")
NEXT = 3
"""The step and the version of the save after the fault."""


class Scenario(NamedTuple):
    """A folder, and what is done in it while the fault comes."""

    name: str
    before: tuple[tuple[int, int], ...]
    """The saves before, as (step, version)."""
    hide: str
    """A suffix under which the last of them lies hidden, as a killed process leaves it; "" for none."""
    leftovers: bool
    """Whether torn hidden folders of other steps lie beside it."""
    method: str
    """The method of the subject: save, or look."""
    save: tuple[int, int] | None
    """The step and the version that are saved."""


SCENARIOS = (
    Scenario("first save", (), "", False, "save", (1, 2)),
    Scenario("a later step, the older one goes", ((1, 1),), "", False, "save", (2, 2)),
    Scenario("the same step again", ((2, 1),), "", False, "save", (2, 2)),
    Scenario("leftovers of a killed save", ((1, 1),), "", True, "save", (2, 2)),
    Scenario("a start that finds a hidden one", ((2, 1),), ".partial", False, "look", None),
)


class Outcome(NamedTuple):
    """What became of one fault."""

    scenario: str
    call: str
    fault: str
    result: str
    """new, old, nothing (where there was nothing), or what went wrong."""
    detail: str

    @property
    def good(self) -> bool:
        """Whether nothing was lost."""
        return self.result in ("new", "old", "nothing")


def strace(pid: int, log: Path, paths: list[Path], inject: str | None) -> subprocess.Popen:
    """Attach strace to a process and its threads, and return when it watches.

    Args:
        pid: the process.
        log: where strace writes what it saw.
        paths: only calls that concern one of these count; all calls if there are none.
        inject: what strace does at a call, as its option --inject says it.
    """
    command = ["strace", "-f", "-qq", "-y", "-e", "signal=none", "-e", f"trace={','.join(CALLS)}", "-o", str(log)]
    for path in paths:
        command += ["-P", str(path)]
    if inject:
        command += ["-e", f"inject={inject}"]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not all(re.search(r"TracerPid:\t[1-9]", text) for text in _statuses(pid)):
        assert tracer.poll() is None and time.monotonic() < deadline, tracer.communicate()[1]
        time.sleep(0.002)
    return tracer


def _statuses(pid: int) -> list[str]:
    """Return what the system says of each thread of a process."""
    return [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]


def detach(tracer: subprocess.Popen) -> None:
    """End a strace; the process that it watches lives on."""
    tracer.send_signal(signal.SIGINT)
    tracer.wait(20)
    tracer.stderr.close()


class Bench:
    """A run's folder, a worker that is tried, and one that looks afterwards."""

    def __init__(self, subject: str, folder: Path) -> None:
        """Begin in an empty folder."""
        self.subject, self.folder, self.run = subject, folder, folder / "run"
        self.log, self.template = folder / "strace.txt", folder / "template"
        self.run.mkdir(parents=True)
        self._tried: Worker | None = None
        self._looks = Worker(subject, folder / "looks")

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self._looks.end()
        if self._tried:
            self._tried.end()

    @property
    def tried(self) -> Worker:
        """A living worker: the last one, unless it was killed."""
        if self._tried is None or not self._tried.alive:
            self._tried = Worker(self.subject, self.run)
        return self._tried

    def prepare(self, scenario: Scenario) -> None:
        """Make the folder in which a scenario begins, as the template."""
        shutil.rmtree(self.run)
        self.run.mkdir()
        for step, version in scenario.before:
            assert self.tried.ask("save", step, version) is None
        if scenario.hide:
            newest = self.run / f"checkpoint-{scenario.before[-1][0]}"
            newest.rename(self.run / f".{newest.name}{scenario.hide}")
        if scenario.leftovers:
            for name in (".checkpoint-7.partial", ".checkpoint-1.old"):
                shutil.copytree(self.run / "checkpoint-1", self.run / name)
                (self.run / name / "checkpoint.json").unlink()
        shutil.rmtree(self.template, ignore_errors=True)
        self.run.rename(self.template)
        self.again()

    def again(self) -> None:
        """Make the run's folder as the template is."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.template, self.run)

    def act(self, scenario: Scenario, paths: list[Path], inject: str | None) -> tuple[bool, Any]:
        """Do what a scenario says under strace; return whether the worker lived, and its answer."""
        worker = self.tried
        tracer = strace(worker.pid, self.log, paths, inject)
        try:
            return True, worker.ask(scenario.method, *(scenario.save or (self.run,)))
        except Died:
            return False, None
        finally:
            detach(tracer)

    def calls(self, scenario: Scenario) -> tuple[list[Path], Counter[str]]:
        """Return the paths that a scenario's calls concern, and the most calls of each kind that one thread makes."""
        self.again()
        self.act(scenario, [], None)
        text = self.log.read_text()
        found = re.findall(rf'[<"]({re.escape(str(self.run))}[^">]*)[">]', text)
        paths = sorted({Path(path.removesuffix("(deleted)")) for path in found})
        self.again()
        self.act(scenario, paths, None)
        by_thread = Counter(re.findall(r"^(\d+) +(\w+)\(", self.log.read_text(), re.MULTILINE))
        most = Counter[str]()
        for (_, call), count in by_thread.items():
            most[call] = max(most[call], count)
        return paths, most

    def look(self) -> Found:
        """Return what a start finds."""
        return self._looks.ask("look", self.run)

    def judge(self, scenario: Scenario, lived: bool, answer: Any) -> tuple[str, str]:
        """Return the result of a fault, and a detail of a bad one."""
        new, old = scenario.save[1] if scenario.save else None, scenario.before[-1][1] if scenario.before else None
        told = lived and scenario.method == "save"

        # The process that lives on may be killed in its next save, which begins by sweeping.
        if told:
            swept = self._looks.ask("look_after_sweep", self.run)
            result, detail = _result(swept, old, new)
            if result in FAILURES:
                return f"{result}, after the next save has begun", detail
        found = self.look()
        result, detail = _result(found, old, new)
        if result in FAILURES:
            return result, detail
        if told and answer is None and result != "new":
            return "said saved, and is not", detail
        if told or not lived:
            return self._next(result)
        return result, detail

    def _next(self, result: str) -> tuple[str, str]:
        """Return `result` if the next save succeeds, is found, and leaves nothing hidden behind."""
        failure = self.tried.ask("save", NEXT, NEXT)
        if failure:
            return "the next save fails", failure
        found = self.look()
        if found.version != NEXT:
            return "the next save is not found", str(found)
        hidden = [path.name for path in self.run.iterdir() if path.name.startswith(".")]
        return ("hidden folders stay", str(hidden)) if hidden else (result, "")


FAILURES = ("starts at step 0", "wrong values", "refused")


def _result(found: Found, old: int | None, new: int | None) -> tuple[str, str]:
    """Return what was found: old, new, nothing where there was nothing, or one of FAILURES with a detail."""
    if found.problem:
        return "refused", found.problem
    if not found.loaded:
        return ("starts at step 0", "") if old is not None else ("nothing", "")
    if found.version == old:
        return "old", ""
    if found.version == new:
        return "new", ""
    return "wrong values", f"version {found.version}"


def every_call(bench: Bench, scenario: Scenario, faults: tuple[str, ...], stride: int = 1) -> Iterator[Outcome]:
    """Yield the outcome of each fault at each call of a scenario.

    Args:
        bench: where.
        scenario: what is done meanwhile.
        faults: KILL, or names of errors; with a plus sign, all calls of the kind fail from there on.
        stride: of the calls, each so many-th is tried for each fault, another one for the next fault.
    """
    bench.prepare(scenario)
    paths, most = bench.calls(scenario)
    points = [(call, number) for call in CALLS for number in range(1, most[call] + 1)]
    for index, (call, number) in enumerate(points):
        for place, fault in enumerate(faults):
            if (index + place) % stride:
                continue
            kind = f"signal={KILL}" if fault == KILL else f"error={fault.removesuffix('+')}"
            when = f"{number}+" if fault.endswith("+") else number
            bench.again()
            lived, answer = bench.act(scenario, paths, f"{call}:{kind}:when={when}")
            assert lived == (fault != KILL), (scenario, call, number, fault)
            assert not lived or "INJECTED" in bench.log.read_text(), (scenario, call, number, fault)
            yield Outcome(scenario.name, f"{call} {number}", fault, *bench.judge(scenario, lived, answer))


def short_writes(bench: Bench, scenario: Scenario) -> Iterator[Outcome]:
    """Yield the outcomes of saves in which files may not be longer than some size, that of each file less one too."""
    bench.prepare(scenario)
    bench.tried.ask("save", *scenario.save)
    lengths = {path.stat().st_size for path in bench.run.rglob("*") if path.is_file()}
    for size in sorted({max(0, length - less) for length in lengths for less in (length, length - 1, length // 2, 1)}):
        bench.again()
        answer = bench.tried.ask("limited", size, *scenario.save)
        yield Outcome(scenario.name, f"limit {size}", "short write", *bench.judge(scenario, True, answer))
