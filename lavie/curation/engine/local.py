"""The engine of one machine: a pool of processes, which is made anew when one of them is killed."""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

SUSPECT = 3
"""Deaths of a pool after which an item that was being worked on each time is tried alone."""
GUILTY = 5
"""Deaths alone after which an item is given up."""


class LocalEngine:
    """A pool of processes on this machine.

    When a worker is killed, by the kernel for want of memory or by somebody, nobody can say at which item: all that
    were begun are tried again. One that was there too often is tried alone, and given up when that kills it too.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        """Start nothing yet.

        Args:
            workers: how many processes work side by side.
            gpus: the GPUs of this machine, by the names that CUDA_VISIBLE_DEVICES takes.
        """
        self.workers = workers
        self.gpus = tuple(gpus)

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result, as `Engine` says; when the caller stops, workers end with their item."""
        gpus = self.gpus if gpu else ()
        workers = len(gpus) or self.workers
        deaths: Counter[int] = Counter()
        waiting = deque(range(len(items)))
        while waiting:
            part = deque(i for i in waiting if deaths[i] < SUSPECT) or deque([waiting[0]])
            alone = deaths[part[0]] >= SUSPECT
            begun = set(part)
            waiting = deque(i for i in waiting if i not in begun)
            for i, result in self._one_pool(work, items, part, 1 if alone else workers, gpus):
                if not isinstance(result, BrokenProcessPool):
                    yield items[i], result, ""
                    continue
                deaths[i] += 1
                if deaths[i] >= SUSPECT + GUILTY:
                    yield (
                        items[i],
                        None,
                        f"its process was killed {deaths[i]} times, the last {GUILTY} while alone",
                    )
                else:
                    waiting.append(i)
            waiting.extendleft(reversed(part))  # what the pool's end has left

    def _one_pool(
        self, work: Callable[[Any], Any], items: Sequence[Any], part: deque[int], workers: int, gpus: Sequence[str]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number of each item that was begun with its result, or with the error of a pool that broke.

        Items are taken off `part` when they are begun; after a break none is begun any more.
        """
        # Processes are started afresh, not forked: a fork of a process with threads may hang.
        context = multiprocessing.get_context("spawn")
        numbers = context.Queue()
        for name in gpus or [""] * workers:
            numbers.put(name)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(numbers,))
        running: dict[Future, int] = {}
        broken = False
        try:
            while part or running:
                # One more than there are workers, so that none waits; no more, so that few are lost at a break.
                while part and not broken and len(running) <= workers:
                    try:
                        running[pool.submit(work, items[part[0]])] = part[0]
                    except BrokenProcessPool:
                        broken = True
                        break
                    part.popleft()
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    i = running.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, BrokenProcessPool):
                        raise error
                    broken = broken or error is not None
                    yield i, error or future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            numbers.close()


def _begin(gpus: Any) -> None:
    """Prepare a worker: one thread for each library, one GPU, and an end when the process that started it ends."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if gpu := gpus.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        """End this process when its parent is gone: it would wait for work forever."""
        with suppress(OSError):
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
