"""Which weights ZeRO-3 gathers in a pass, when it lets go of them, and so how many are whole at once.

DeepSpeed notes the order of the modules in the first passes of a run, and then follows these rules:

1. A module's weights are gathered by one collective, as far as they are not whole yet.
2. Behind it, the next weights in the order are gathered, up to stage3_prefetch_bucket_size elements, and no more than
   stage3_max_live_parameters in all. Modules without weights do so too.
3. After a module its weights are let go, except those that are used again within the next stage3_max_reuse_distance
   elements, and those of at most stage3_param_persistence_threshold elements, which stay for the whole step. On this
   distance a leaf meets the weights inside of each module that follows, and other modules those of its own alone.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .trace import Trace, Unit

LIVE = REUSE = 10**9
"""DeepSpeed's own stage3_max_live_parameters and stage3_max_reuse_distance, in elements."""
PREFETCH, PERSISTENT = 5 * 10**7, 10**5
"""DeepSpeed's own stage3_prefetch_bucket_size and stage3_param_persistence_threshold, in elements."""


class Limits(NamedTuple):
    """What bounds the weights that are whole, in elements."""

    live: int
    reuse: int
    prefetch: int
    persistent: int

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Limits":
        """Return those of DeepSpeed's settings."""
        zero = settings.get("zero_optimization", {})
        return cls(
            int(zero.get("stage3_max_live_parameters", LIVE)),
            int(zero.get("stage3_max_reuse_distance", REUSE)),
            int(zero.get("stage3_prefetch_bucket_size", PREFETCH)),
            int(zero.get("stage3_param_persistence_threshold", PERSISTENT)),
        )


@dataclass
class Gathering:
    """What is gathered in a forward and backward pass."""

    gathers: list[list[int]] = field(default_factory=list)
    """The elements of each parameter of each collective."""
    forward: int = 0
    """How many of the collectives belong to the forward pass."""
    live: int = 0
    """The most elements that are whole at once, the persistent ones among them."""
    persistent: list[int] = field(default_factory=list)
    """The elements of each parameter that stays whole, and is gathered once a step, after the update."""

    @property
    def largest(self) -> int:
        """The elements of the largest collective."""
        return max((sum(gather) for gather in self.gathers), default=0)


def gathering(trace: Trace, limits: Limits) -> Gathering:
    """Return what ZeRO-3 gathers in a pass, once the order of the modules is known."""
    return _Coordinator(trace, limits).run()


class _Coordinator:
    """Follows DeepSpeed's PartitionedParameterCoordinator through one pass."""

    def __init__(self, trace: Trace, limits: Limits) -> None:
        self.trace, self.limits = trace, limits
        self.persists = {p for p, size in enumerate(trace.sizes) if size <= limits.persistent}
        self.whole: set[int] = set(self.persists)
        self.order = [visit.unit for visit in trace.visits if visit.fetch]
        self.queue = deque((p, step) for step, unit in enumerate(self.order) for p in trace.units[unit].parameters)
        self.fetched_for = dict.fromkeys(range(len(trace.sizes)), -1)
        self.result = Gathering(persistent=[trace.sizes[p] for p in sorted(self.persists)])

    def run(self) -> Gathering:
        """Go through the visits."""
        step = 0
        self._note()
        for at, (unit, fetches) in enumerate(self.trace.visits):
            if at == self.trace.turn:
                self.result.forward = len(self.result.gathers)
            if fetches:
                self._fetch(self.trace.units[unit].parameters, step)
                step += 1
            else:
                self.whole -= self._released(self.trace.units[unit], step)
        return self.result

    def _fetch(self, parameters: tuple[int, ...], step: int) -> None:
        """Gather what a module needs, then what follows it."""
        self._gather([p for p in parameters if p not in self.whole])
        fresh = sum(self.fetched_for[p] < step for p in parameters)
        for _ in range(min(fresh, len(self.queue))):
            p, last = self.queue.popleft()
            self.fetched_for[p] = last
        room = min(self.limits.live - self._count(), self.limits.prefetch)
        ahead: list[int] = []
        elements = 0
        while self.queue and elements < room:
            p, last = self.queue.popleft()
            self.fetched_for[p] = max(self.fetched_for[p], last)
            if p not in self.whole and p not in ahead:
                ahead.append(p)
                elements += self.trace.sizes[p]
        self._gather(ahead)

    def _released(self, unit: Unit, step: int) -> set[int]:
        """Return which parameters of a module are let go before a step."""
        released = {p for p in unit.parameters if p not in self.persists and self.fetched_for[p] <= step}
        passed = 0
        for following in self.order[step:]:
            if passed >= self.limits.reuse or not released:
                break
            later = self.trace.units[following]
            met = later.inside if unit.leaf else later.own
            released -= set(met)
            passed += sum(self.trace.sizes[p] for p in met)
        return released

    def _gather(self, parameters: list[int]) -> None:
        """Make parameters whole by one collective."""
        if parameters:
            self.result.gathers.append([self.trace.sizes[p] for p in parameters])
            self.whole |= set(parameters)
            self._note()

    def _count(self) -> int:
        """Return how many elements are whole that were gathered in this pass."""
        return sum(self.trace.sizes[p] for p in self.whole - self.persists)

    def _note(self) -> None:
        """Keep the largest number of whole elements."""
        self.result.live = max(self.result.live, sum(self.trace.sizes[p] for p in self.whole))
