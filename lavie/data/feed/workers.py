"""Processes that make rows and may die or hang: they are replaced, and the rows come all the same, in the same order.

The trainer and each process speak over one pipe. The process says which sample it is about to read, so that the sample
that ends or stops it is known by name. The large parts of a row, its tensors and the file of a clip that is left to
DALI, do not fit into a pipe: they are copied to a slot of memory that all share. The number of slots bounds what is
made ahead.
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
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ..decoders.clip import EncodedClip
from .rows import TENSORS, Row, Rows

log = logging.getLogger("lavie")

AHEAD = 64
"""Rows that wait with one process at most: their messages must fit into its pipe."""
STRIKES = 2
"""Times that a sample may end or hang its process before a spare takes its place."""
AGAIN_SECONDS = 30.0
"""Seconds that a process may take to start, or `timeout` if longer, once one has started: its imports are in memory."""
START_SECONDS = 300.0
"""Seconds that the first process may take to start: on a cold network disk, its imports do."""


# --- messages


@dataclass(frozen=True, slots=True)
class _Request:
    """The trainer's message to a process that it is to make a row."""

    position: int
    slot: int
    """The number of the slot for the row's large parts."""
    unreadable: dict[str, str]
    """Samples that the process must not try, by address: the reason."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A process's message to the trainer that its imports are done."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A process's message to the trainer that it is about to read a sample."""

    sample: str
    """The sample's address."""


@dataclass(frozen=True, slots=True)
class _PackedRow:
    """A process's message to the trainer that brings a row, whose large parts lie in the slot one after another."""

    row: Row
    """The row without its tensors, and without the file of its clip."""
    tensors: tuple[tuple[str, torch.Size, torch.dtype], ...]
    """Name, shape and dtype of each tensor in the slot, in this order."""
    file_bytes: int
    """Bytes of the clip's file, which follows the tensors; 0 if no clip is left to DALI."""


_Message = _Started | _Reading | _PackedRow | Exception
"""What a process sends; an exception in place of a row that could not be made."""


# --- the trainer's side


@dataclass
class _Task:
    """One row to make."""

    number: int
    """Its place among all rows of the iterator, from 0."""
    position: int
    slot: int
    unreadable: dict[str, str] = field(default_factory=dict)
    """Samples that must not be tried again, by address: the reason."""
    strikes: Counter[str] = field(default_factory=Counter)
    """How often the process ended or hung, by the sample that it was at."""

    def request(self) -> _Request:
        """Return the message that asks a process for this row."""
        return _Request(self.position, self.slot, self.unreadable)


@dataclass
class _Worker:
    """A process, and the rows that it is to make."""

    process: Any
    connection: Connection
    tasks: deque[_Task]
    reading: str = ""
    """The address of the sample that it is at; empty before the first of a row."""
    started: bool = False
    """Whether it has said anything yet."""
    heard: float = 0.0
    """When it last said something, or when listening began: seconds by the monotonic clock."""


class Workers(Iterator[Row]):
    """The rows of `positions`, in order, made by `num_workers` processes.

    1. Rows go to the process that has the fewest. At most `ahead` rows per process are made or queued at a time.
    2. A process that dies is replaced, and so is one that is silent for `timeout` seconds while its rows are awaited.
       The new process makes the rows again.
    3. A sample at which that happens STRIKES times is dropped for a spare.

    The tensors of a row are valid until the next row is asked for. `close` ends the processes, and so does the end of
    this object's life.

    Args:
        rows: makes the row of a position; a copy goes to every process.
        positions: the global positions of the rows, in order.
        num_workers: the number of processes, from 1.
        ahead: most rows that are made or queued per process, from 1; AHEAD at most.
        timeout: seconds of silence after which a process counts as hung (data.timeout).
    """

    def __init__(self, rows: Rows, positions: Iterator[int], num_workers: int, *, ahead: int, timeout: float) -> None:
        """Start the processes and request the first rows; the arguments are those of the class."""
        self._rows, self._positions, self._timeout = rows, positions, timeout
        # Forked from a small server: a fork of the trainer would copy the locks of its threads (gloo, CUDA, FFmpeg).
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])  # torch and av are imported once, not by every process

        slots = num_workers * min(ahead, AHEAD)
        self._memory = self._context.RawArray(ctypes.c_uint8, slots * rows.row_bytes)
        self._slots = np.frombuffer(memoryview(self._memory), np.uint8).reshape(slots, -1)
        self._free = list(range(slots))
        self._slot_in_use: int | None = None
        """The slot of the row that was given out last."""

        self._requested, self._given = 0, 0
        """Numbers of the next row to request from a process, and of the next one to give out."""
        self._finished: dict[int, tuple[_Task, _PackedRow | Exception]] = {}
        """Rows that are made and not yet given out, by number."""
        self._any_started = False
        """Whether a process has ever started."""
        self._workers: list[_Worker] = []
        # multiprocessing's own finalizer: it runs before multiprocessing waits for the processes at exit.
        self.close = Finalize(self, _stop, (self._workers,), exitpriority=10)
        for _ in range(num_workers):
            self._workers.append(self._start())
        self._dispatch()

    def __next__(self) -> Row:
        """Return the next row, and wait until it is made. Raises the error that kept it from being made."""
        # The last row's tensors are no longer valid: its slot is free for another.
        if self._slot_in_use is not None:
            self._free.append(self._slot_in_use)
            self._slot_in_use = None
        self._dispatch()
        if self._given == self._requested:
            raise StopIteration

        # Nobody listened since the last row: silence counts from here.
        for worker in self._workers:
            worker.heard = time.monotonic()
        while self._given not in self._finished:
            self._listen()

        task, result = self._finished.pop(self._given)
        self._given += 1
        self._slot_in_use = task.slot
        if isinstance(result, Exception):
            raise result
        return _unpack(result, self._slots[task.slot])

    def _dispatch(self) -> None:
        """Request rows from the processes as long as there are free slots and positions."""
        while self._free and (position := next(self._positions, None)) is not None:
            worker = min(self._workers, key=lambda w: len(w.tasks))
            task = _Task(self._requested, position, self._free.pop())
            self._requested += 1
            worker.tasks.append(task)
            _send(worker, task)

    def _listen(self) -> None:
        """Take a message from each process that has one, or replace those that are silent for too long."""
        busy = [worker for worker in self._workers if worker.tasks]
        start_limit = max(self._timeout, AGAIN_SECONDS if self._any_started else START_SECONDS)
        limits = [w.heard + (self._timeout if w.started else start_limit) for w in busy]
        ready = wait([w.connection for w in busy], max(0.0, min(limits) - time.monotonic()))
        for worker, limit in zip(busy, limits, strict=True):
            if worker.connection in ready:
                try:
                    self._take(worker, worker.connection.recv())
                except (EOFError, OSError):
                    worker.process.join(5)
                    self._replace(worker, f"died ({_exit(worker.process.exitcode)})")
            elif time.monotonic() >= limit:
                why = "(data.timeout)" if worker.started else "while it started"
                self._replace(worker, f"hung for {limit - worker.heard:g} s {why}")

    def _take(self, worker: _Worker, message: _Message) -> None:
        """Act on a message of a process."""
        worker.heard, worker.started, self._any_started = time.monotonic(), True, True
        if isinstance(message, _Reading):
            worker.reading = message.sample
        elif isinstance(message, _PackedRow | Exception):
            task, worker.reading = worker.tasks.popleft(), ""
            self._finished[task.number] = task, message

    def _replace(self, worker: _Worker, why: str) -> None:
        """Put a new process in the place of one that died or hung, and request its rows again.

        Raises DataError if that has happened STRIKES times at a row before any sample was read.
        """
        # The sample that the process was at is the suspect.
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

        # The slots of its rows stay theirs: the old process must have ended before another writes there.
        _stop([worker])
        new = self._start()
        new.tasks = worker.tasks
        self._workers[self._workers.index(worker)] = new
        for task in new.tasks:
            _send(new, task)

    def _start(self) -> _Worker:
        """Start a process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._rows, theirs, self._memory), daemon=True)
        with _without_main():
            process.start()
        theirs.close()
        return _Worker(process, ours, deque(), heard=time.monotonic())


def _send(worker: _Worker, task: _Task) -> None:
    """Request a row from a process."""
    with suppress(OSError):  # it died: the next message from it will be the end of its pipe
        worker.connection.send(task.request())


def _stop(workers: list[_Worker]) -> None:
    """End processes."""
    for worker in workers:
        worker.process.kill()
        worker.connection.close()
    for worker in workers:
        worker.process.join(5)


def _exit(code: int | None) -> str:
    """Return how a process ended, in words, from its exit code."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep the processes started inside from importing the program's main module.

    multiprocessing would have each of them run it again: with DeepSpeed and all else that it imports, and, if it lacks
    an `if __name__ == "__main__"`, with workers of its own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- the process's side


def _work(rows: Rows, connection: Connection, memory: Any) -> None:
    """Live the life of a process: one row after another, until the pipe or the parent ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the trainer; launchers send them to all processes
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    slots = np.frombuffer(memoryview(memory), np.uint8).reshape(-1, rows.row_bytes)
    with suppress(EOFError, OSError):
        connection.send(_Started())
        while True:
            request: _Request = connection.recv()
            connection.send(_make(rows, request, connection, slots[request.slot]))


def _make(rows: Rows, request: _Request, connection: Connection, slot: np.ndarray) -> _PackedRow | Exception:
    """Make a row and pack it into its slot. Returns the error if there is none."""
    try:
        row = rows.row(request.position, request.unreadable, lambda address: connection.send(_Reading(address)))
        return _pack(row, slot)
    except DataError as error:
        return error
    except (Exception, SystemExit):  # a fault of the program: the trainer is to show where
        return RuntimeError(f"in a worker, at position {request.position}:\n{traceback.format_exc()}")


def _die_with_parent() -> None:
    """End this process with the trainer, even from within a decoder that never returns."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# --- rows in shared memory


def _pack(row: Row, slot: np.ndarray) -> _PackedRow:
    """Copy the large parts of a row into its slot, uint8 (row_bytes,), and return what is left of the row.

    Tensors begin at multiples of their element's size, since those of a row have one dtype. The file comes last.
    """
    rest, tensors, offset = row.copy(), [], 0
    for name in TENSORS:
        if name in row:
            tensor: torch.Tensor = rest.pop(name)  # type: ignore[misc]
            data = tensor.contiguous().view(torch.uint8).numpy().reshape(-1)
            slot[offset : offset + data.size] = data
            tensors.append((name, tensor.shape, tensor.dtype))
            offset += data.size

    clip, file_bytes = row.get("clip"), 0
    if isinstance(clip, EncodedClip):
        file_bytes = len(clip.data)
        slot[offset : offset + file_bytes] = np.frombuffer(clip.data, np.uint8)
        rest["clip"] = replace(clip, data=b"")
    return _PackedRow(rest, tuple(tensors), file_bytes)


def _unpack(packed: _PackedRow, slot: np.ndarray) -> Row:
    """Return the row that `_pack` has put into a slot. Its tensors are views of the slot."""
    row, offset = packed.row.copy(), 0
    for name, shape, dtype in packed.tensors:
        size = shape.numel() * dtype.itemsize
        row[name] = torch.from_numpy(slot[offset : offset + size]).view(dtype).view(shape)  # type: ignore[literal-required]
        offset += size

    clip = row.get("clip")
    if isinstance(clip, EncodedClip):
        row["clip"] = replace(clip, data=slot[offset : offset + packed.file_bytes].tobytes())
    return row
