"""The engine of a Ray cluster: tasks carry paths, so nothing passes through its object store."""

import logging
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import ConfigError
from .base import handed_out

TRIES = 5
"""How often a task is tried again after the process or the node that did it has died."""
AHEAD = 2
"""Tasks handed over for each place of the cluster: one is worked on, one waits."""


class RayEngine:
    """A Ray cluster that this process is connected to."""

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result, as `Engine` says. GPU stages run in actors, which keep their networks."""
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0)) if gpu else 0
        if gpus:
            actor: Any = ray.remote(num_gpus=1, max_restarts=-1, max_task_retries=TRIES)(_Worker)
            workers: list[Any] = [actor.remote() for _ in range(gpus)]
        remote: Any = ray.remote(num_cpus=1, max_retries=TRIES)(_call)
        load = [0] * gpus
        places: dict[Any, int] = {}

        def submit(item: Any) -> Any:
            """Hand an item to the cluster, or to the actor with the least to do."""
            if not gpus:
                return remote.remote(work, item)
            place = load.index(min(load))
            load[place] += 1
            reference = workers[place].call.remote(work, item)
            places[reference] = place
            return reference

        def finished(running: Collection[Any]) -> Iterable[Any]:
            """Wait a second at most, for what joins the cluster meanwhile is given work."""
            return ray.wait(list(running), timeout=1.0)[0]

        def most() -> int:
            """Return how many items the cluster has places for, and as many that wait."""
            return AHEAD * (gpus or max(1, int(ray.cluster_resources().get("CPU", 1))))

        for item, reference in handed_out(items, submit, finished, most):
            if gpus:
                load[places.pop(reference)] -= 1
            try:
                yield item, ray.get(reference), ""
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                yield item, None, f"{type(error).__name__}: {error}"


class _Worker:
    """A process with a GPU of its own."""

    def call(self, work: Callable[[Any], Any], item: Any) -> Any:
        """Return the result of one item."""
        return work(item)


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    """Return the result of one item."""
    return work(item)


@contextmanager
def ray_engine(address: str | None, workers: int | None) -> Iterator[RayEngine]:
    """Give a cluster until the block ends.

    Args:
        address: of a running cluster; None starts a Ray of this machine alone, on the loopback interface.
        workers: places of a Ray that is started here.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at `address`.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs ray: pip install 'lavie[ray]'") from None
    options: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.WARNING)
    try:
        if address:
            _require_answer(address)
            ray.init(address=address, **options)
        else:
            options |= dict(include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=100 << 20)
            # "local": a cluster of its own, although this node may be in another.
            ray.init(address="local", num_cpus=workers, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--engine ray --address {address}: no cluster answers: {error}") from None
    try:
        yield RayEngine()
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise OSError or ValueError if nobody listens at host:port. Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("wanted host:port, or auto")
    socket.create_connection((host, int(port)), timeout=10).close()
