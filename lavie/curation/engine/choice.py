"""The engine that a user names."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ...config.curate_engine import EngineConfig
from .base import Engine
from .local import LocalEngine


@contextmanager
def open_engine(config: EngineConfig) -> Iterator[Engine | None]:
    """Give the engine of a configuration until the block ends.

    With mpi, None is given to every rank but the first: when the block begins there, all work has been done.

    Raises:
        ConfigError: a package or a launcher is missing.
    """
    workers = config.workers or len(os.sched_getaffinity(0))
    if config.engine == "ray":
        from .ray import ray_engine

        with ray_engine(config.address, workers if config.workers or not config.address else None) as engine:
            yield engine
    elif config.engine == "mpi":
        from .mpi import mpi_engine

        with mpi_engine() as engine:
            yield engine
    else:
        yield LocalEngine(workers, gpus_here())


def gpus_here() -> list[str]:
    """Return the names of this machine's GPUs that CUDA_VISIBLE_DEVICES allows, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    return [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]
