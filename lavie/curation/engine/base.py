"""What every engine offers: a function, items, and results as they come."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """A place where many items are worked on side by side."""

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[Any, Any, str]]:
        """Yield each item with its result and, in place of a result, why there is none; in any order.

        Args:
            work: a function at the top of an importable module. It may be run twice for one item.
            items: small things that can be sent to other processes: paths and settings, no pixels. They are begun in
                the given order.
            gpu: whether each worker wants a GPU of its own, where there are GPUs.
        """
        ...
