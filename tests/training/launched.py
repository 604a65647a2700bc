"""Ranks that run `lavie train` as launchers start it, forked from the tests' warm process: each with its exit code."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavie.testing import free_port, start_rank_server


def start_ranks(words: list[str], world_size: int, log: Path, prepare: Callable, *arguments: Any) -> list[Any]:
    """Start the ranks of a run, and return their processes, by rank. The caller ends them, see `end_ranks`.

    Args:
        words: the command line of `lavie train`.
        world_size: the number of ranks.
        log: the file that all they print is added to.
        prepare: called in each rank before its training, with its rank and the other arguments.
        arguments: those.
    """
    start_rank_server()
    context, port = multiprocessing.get_context("forkserver"), free_port()
    ranks = []
    for rank in range(world_size):
        given = (rank, world_size, port, words, log, prepare, arguments)
        ranks.append(context.Process(target=_be_rank, args=given))
        ranks[-1].start()
    return ranks


def end_ranks(ranks: list[Any], seconds: float = 240) -> list[int | None]:
    """Wait until some ranks have ended, kill those that have not in the time, and return all exit codes, by rank."""
    deadline = time.monotonic() + seconds
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes


def _be_rank(
    rank: int, world_size: int, port: int, words: list[str], log: Path, prepare: Callable, arguments: tuple
) -> None:
    """Be one rank."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(number) for name, number in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    import torch

    from lavie.train import main

    torch.set_num_threads(1)
    prepare(rank, *arguments)
    main(words)
