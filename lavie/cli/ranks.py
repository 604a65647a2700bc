"""The process group of commands that share their work among the ranks of a launcher."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

PATIENCE = timedelta(hours=24)
"""The longest wait for another rank: the shares of a long evaluation do not end together."""


@contextmanager
def ranks() -> Iterator[None]:
    """Make a process group of the ranks that a launcher started, until the block ends; one process needs none."""
    from ..launcher import launched_rank

    if launched_rank().world_size == 1:
        yield
        return
    import torch.distributed as dist

    from ..cluster.rendezvous import meet, start_timeout
    from ..launcher import find_place

    place = find_place()
    store, _ = meet(place, start_timeout())
    dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.world_size, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
