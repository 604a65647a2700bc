"""Decoding processes that may die or hang: they are replaced, and the rows come all the same, in the same order.

Each process has one pipe. It says which sample it is about to read, so that the one that ended or stopped it is known
by name, and puts pixels into slots of shared memory, whose number bounds what is decoded ahead.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from .rows import Row, Rows

log = logging.getLogger("lavie")

AHEAD = 64
"""Rows that wait with one process at most: their messages must fit into its pipe."""
STRIKES = 2
"""Times that a sample may end or hang its process before a spare takes its place."""
AGAIN_SECONDS = 30.0
"""A process may take so long to start, or `timeout` if longer, once one has started: what it imports is in memory."""
START_SECONDS = 300.0
"""A process may take so long to start; on a cold network disk, its imports do."""
ARRAYS = ("pixels", "low_res", "media", "mean", "std", "text")
"""Of a row: what goes through shared memory. The floats of a row have one dtype, so each begins where it may."""


@dataclass
class _Task:
    number: int
    position: int
    slot: int
    unreadable: dict[str, str] = field(default_factory=dict)
    strikes: Counter[str] = field(default_factory=Counter)


@dataclass
class _Worker:
    process: Any
    connection: Connection
    tasks: deque[_Task]
    reading: str = ""
    """The sample it is at; empty before the first of a row."""
    started: bool = False
    heard: float = 0.0


class Workers(Iterator[Row]):
    """The rows of `positions`, in order, decoded by `num_workers` processes.

    The arrays of a row are valid until the next one is asked for. At most `ahead` rows per process are decoded or
    queued at a time. A process that dies, or is silent for `timeout` seconds while its rows are waited for, is replaced
    and its rows are read again; a sample at which that happens twice is dropped for a spare.
    """

    def __init__(
        self, dataset: Rows, positions: Iterator[int], num_workers: int, *, ahead: int, timeout: float
    ) -> None:
        self._dataset, self._positions, self._timeout = dataset, positions, timeout
        # Forked from a small server: a fork of the trainer would copy the locks of its threads (gloo, CUDA, FFmpeg).
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])  # torch and av are imported once, not by every worker
        slots = num_workers * min(ahead, AHEAD)
        self._memory = self._context.RawArray(ctypes.c_uint8, slots * dataset.row_bytes)
        self._slots = np.frombuffer(memoryview(self._memory), np.uint8).reshape(slots, -1)
        self._free = list(range(slots))
        self._numbers, self._next = 0, 0
        self._shown: int | None = None
        self._warm = False
        """Whether a process has started."""
        self._done: dict[int, tuple[_Task, Any]] = {}
        self._workers: list[_Worker] = []
        # multiprocessing's own finalizer: it runs before multiprocessing waits for the processes at exit.
        self.close = Finalize(self, _stop, (self._workers,), exitpriority=10)
        for _ in range(num_workers):
            self._workers.append(self._start())
        self._dispatch()

    def __next__(self) -> Row:
        if self._shown is not None:
            self._free.append(self._shown)
            self._shown = None
        self._dispatch()
        if self._next == self._numbers:
            raise StopIteration
        for worker in self._workers:
            worker.heard = time.monotonic()  # nobody listened since the last row
        while self._next not in self._done:
            self._listen()
        task, result = self._done.pop(self._next)
        self._next += 1
        self._shown = task.slot
        if isinstance(result, Exception):
            raise result
        slot, offset = self._slots[task.slot], 0
        for name in ARRAYS:
            if name in result:
                shape, dtype = result[name]
                size = shape.numel() * dtype.itemsize
                result[name] = torch.from_numpy(slot[offset : offset + size]).view(dtype).view(shape)
                offset += size
        return result

    def _dispatch(self) -> None:
        while self._free and (position := next(self._positions, None)) is not None:
            worker = min(self._workers, key=lambda w: len(w.tasks))
            task = _Task(self._numbers, position, self._free.pop())
            self._numbers += 1
            worker.tasks.append(task)
            _send(worker, task)

    def _listen(self) -> None:
        """Take a message from each process that has one, or replace those that are silent for too long."""
        busy = [worker for worker in self._workers if worker.tasks]
        starting = max(self._timeout, AGAIN_SECONDS if self._warm else START_SECONDS)
        limits = [w.heard + (self._timeout if w.started else starting) for w in busy]
        ready = wait([w.connection for w in busy], max(0.0, min(limits) - time.monotonic()))
        for worker, limit in zip(busy, limits, strict=True):
            if worker.connection in ready:
                try:
                    self._take(worker, *worker.connection.recv())
                except (EOFError, OSError):
                    worker.process.join(5)
                    self._replace(worker, f"died ({_exit(worker.process.exitcode)})")
            elif time.monotonic() >= limit:
                why = "(data.timeout)" if worker.started else "while it started"
                self._replace(worker, f"hung for {limit - worker.heard:g} s {why}")

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        worker.heard, worker.started, self._warm = time.monotonic(), True, True
        if kind == "reading":
            worker.reading = content
        elif kind == "done":
            task, worker.reading = worker.tasks.popleft(), ""
            self._done[task.number] = task, content

    def _replace(self, worker: _Worker, why: str) -> None:
        task, name = worker.tasks[0], worker.reading or "no sample yet"
        log.error("data: a worker %s at position %d, reading %s: it is replaced", why, task.position, name)
        task.strikes[worker.reading] += 1
        if task.strikes[worker.reading] >= STRIKES:
            if not worker.reading:
                raise DataError(
                    f"position {task.position}: workers {why} before they read a sample, {STRIKES} times. Is there "
                    "memory for data.num_workers processes? data.num_workers=0 decodes without them"
                )
            task.unreadable[worker.reading] = f"a worker that read it {why}, {STRIKES} times"
        _stop([worker])
        new = self._start()
        new.tasks = worker.tasks
        self._workers[self._workers.index(worker)] = new
        for task in new.tasks:
            _send(new, task)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._dataset, theirs, self._memory), daemon=True)
        with _without_main():
            process.start()
        theirs.close()
        return _Worker(process, ours, deque(), heard=time.monotonic())


def _send(worker: _Worker, task: _Task) -> None:
    with suppress(OSError):  # it died: the next message from it will be the end of its pipe
        worker.connection.send((task.position, task.slot, task.unreadable))


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
        worker.connection.close()
    for worker in workers:
        worker.process.join(5)


def _exit(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _work(dataset: Rows, connection: Connection, memory: Any) -> None:
    """The life of a process: one row after another, until the pipe or the parent ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the trainer; launchers send them to all processes
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    slots = np.frombuffer(memoryview(memory), np.uint8).reshape(-1, dataset.row_bytes)
    with suppress(EOFError, OSError):
        connection.send(("started", None))
        while True:
            position, slot, unreadable = connection.recv()
            connection.send(("done", _row(dataset, position, unreadable, connection, slots[slot])))


def _row(dataset: Rows, position: int, unreadable: dict[str, str], connection: Connection, slot: Any) -> Any:
    """The row with the shapes and dtypes of its arrays in their place, or the error for which there is none."""
    try:
        row: Any = dataset.row(position, unreadable, lambda place: connection.send(("reading", place)))
        offset = 0
        for name in ARRAYS:
            if name in row:
                array = row[name].view(torch.uint8).numpy()
                slot[offset : offset + array.size] = array.reshape(-1)
                offset += array.size
                row[name] = row[name].shape, row[name].dtype
        return row
    except DataError as error:
        return error
    except (Exception, SystemExit):  # a fault of the program: the trainer is to show where
        return RuntimeError(f"in a worker, at position {position}:\n{traceback.format_exc()}")


def _die_with_parent() -> None:
    """End this process with the trainer, even from within a decoder that never returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes started inside do not import the program's main module.

    multiprocessing would have each of them run it again: with DeepSpeed and all else that it imports, and, if it lacks
    an `if __name__ == "__main__"`, with workers of its own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
