"""How rank 0 learns what each rank has written, without a collective: through the store at which they met.

A checkpoint is written by a thread while the main thread trains. Collectives of two threads would meet in another order
on every rank; keys of a store meet by their names.
"""

import json
import time
from typing import Any

import torch.distributed as dist

from ...distributed import initialized, rank, world_size

POLL = 0.02
"""Seconds between two looks at the store: none of them blocks it for the other threads of the process."""


class Reports:
    """One question to all ranks, whose answers rank 0 reads. A process without a group is alone."""

    def __init__(self, name: str) -> None:
        """Name the question; every rank gives the same name, and each question of a run has its own."""
        self._name = name
        self._store: Any = dist.distributed_c10d._get_default_store() if initialized() else None

    def give(self, value: Any) -> None:
        """Tell rank 0 this rank's answer, a JSON value. Raises RuntimeError if rank 0 is gone."""
        if self._store:
            self._store.set(f"{self._name}/{rank()}", json.dumps(value))

    def gather(self, own: Any) -> list[Any]:
        """Return, on rank 0, the answers of all ranks, by rank, when the last has come; `own` is that of rank 0."""
        if not self._store:
            return [own]
        found = [own]
        for other in range(1, world_size()):
            found.append(json.loads(self._wait_for(f"{self._name}/{other}")))
            self._store.delete_key(f"{self._name}/{other}")
        return found

    def _wait_for(self, key: str) -> bytes:
        """Return the value of a key when it is there."""
        while not self._store.check([key]):
            time.sleep(POLL)
        return self._store.get(key)
