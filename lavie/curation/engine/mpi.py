"""The engine of an MPI job: its first rank hands out the work, all others do it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any

from ...errors import ConfigError


class MpiEngine:
    """The ranks of mpirun or srun. A rank that dies ends the job; the next one goes on with the units left."""

    def __init__(self, executor: Any, workers: int) -> None:
        """Take the executor of mpi4py.futures, and how many ranks do work."""
        self._executor = executor
        self._workers = workers

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result, as `Engine` says; the launcher gives each rank its GPU."""
        running: dict[Future, Any] = {}
        rest = iter(items)
        item = next(rest, None)
        while item is not None or running:
            while item is not None and len(running) <= self._workers:
                running[self._executor.submit(work, item)] = item
                item = next(rest, None)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result(), ""


@contextmanager
def mpi_engine() -> Iterator[MpiEngine | None]:
    """Give the engine to the first rank until the block ends, None to the others when all work is done.

    Raises:
        ConfigError: mpi4py is not installed, or there is one rank only.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except ImportError as error:
        raise ConfigError(f"--engine mpi needs mpi4py and an MPI ({error}): pip install 'lavie[mpi]'") from None
    ranks = MPI.COMM_WORLD.Get_size()
    if ranks < 2:
        raise ConfigError("--engine mpi with one rank: start it by mpirun -np N or srun, with N >= 2")
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        yield None if executor is None else MpiEngine(executor, ranks - 1)
