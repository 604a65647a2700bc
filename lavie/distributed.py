"""Rank and number of ranks of the process group, and the few collectives that a run needs.

A process without a group is alone here, rank 0 of 1, whoever launched it: lavie.launcher says what a launcher said.
Every rank takes part in every collective: a branch on the rank around one of these functions is a deadlock.
"""

import logging
import sys
from typing import Any

import torch
import torch.distributed as dist

from .console import TIME

log = logging.getLogger("lavie")


def initialized() -> bool:
    """Return whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the index of this process in its group, 0 <= rank < world_size()."""
    return dist.get_rank() if initialized() else 0


def world_size() -> int:
    """Return the number of processes in the group of this one, 1 without a group."""
    return dist.get_world_size() if initialized() else 1


def is_main() -> bool:
    """Return whether this process is rank 0, which writes the logs and the files that exist once per run."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has come here."""
    if initialized():
        dist.barrier()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the ranks, in place, and return it."""
    if initialized():
        dist.all_reduce(tensor)
    return tensor


def broadcast_object(value: Any) -> Any:
    """Return rank 0's `value`, which is pickled, on every rank."""
    if not initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Return the list of every rank's `value`, by rank, on every rank. The values are pickled."""
    if not initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def setup_logging() -> None:
    """Let rank 0 log at INFO and the others at ERROR; all at WARNING, where there is no process group yet.

    Lines begin with the time of day, unless a terminal shows them.
    """
    stamp = "" if sys.stderr.isatty() else "%(asctime)s "
    logging.basicConfig(format=f"{stamp}%(message)s", datefmt=TIME, level=logging.WARNING)
    of_rank = logging.INFO if is_main() else logging.ERROR
    log.setLevel(of_rank if initialized() else logging.WARNING)
