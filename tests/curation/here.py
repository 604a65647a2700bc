"""An engine for tests that need no processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Here:
    """An engine that does everything in this process, and keeps what it was given."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result."""
        for item in items:
            self.items.append(item)
            yield item, work(item), ""
