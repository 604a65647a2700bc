"""How many processes decode for a rank: as the config says, else by the cores that the rank has."""

import os

from ...config.data import DataConfig
from ...launcher import local_world_size

SPARED = 2
"""Cores of a rank that are left to the rank itself: for its training loop, and for what its libraries run beside it."""
MOST = 16
"""Decoding processes of a rank at most, unless more are asked for: each takes memory, also of /dev/shm."""


def worker_count(data: DataConfig) -> int:
    """Return the number of decoding processes of this rank: data.num_workers, by default its cores less SPARED."""
    if data.num_workers is not None:
        return data.num_workers
    return min(max(1, cores_of_rank() - SPARED), MOST)


def cores_of_rank() -> int:
    """Return the cores that this rank may use: those of SLURM_CPUS_PER_TASK, else a share of this process's."""
    if (told := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit() and int(told):
        return int(told)
    return max(1, len(os.sched_getaffinity(0)) // local_world_size())
