"""The engine of an MPI job: its first rank hands out the work, all others do it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any

from ...errors import ConfigError
from .base import handed_out


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

        def submit(item: Any) -> Future:
            """Hand an item over."""
            return self._executor.submit(work, item)

        def finished(running: Collection[Future]) -> Iterable[Future]:
            """Wait until one is finished."""
            return wait(running, return_when=FIRST_COMPLETED).done

        # One more than there are ranks, so that none waits.
        for item, future in handed_out(items, submit, finished, lambda: self._workers + 1):
            yield item, future.result(), ""


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
