"""What every engine offers: a function, items, and results as they come."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Handle = TypeVar("Handle")
"""What an engine gives for an item that it was handed, as a future."""


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


def handed_out(
    items: Iterable[Any],
    submit: Callable[[Any], Handle],
    finished: Callable[[Collection[Handle]], Iterable[Handle]],
    most: Callable[[], int],
) -> Iterator[tuple[Any, Handle]]:
    """Yield each item with its handle when it is finished, while a limited number of others are handed over.

    Args:
        items: begun in their order.
        submit: hands one over.
        finished: waits a while, and returns those handles that are finished.
        most: how many are handed over at a time, asked anew whenever some are finished.
    """
    running: dict[Handle, Any] = {}
    rest = iter(items)
    item = next(rest, None)
    while item is not None or running:
        limit = most()
        while item is not None and len(running) < limit:
            running[submit(item)] = item
            item = next(rest, None)
        for handle in finished(list(running)):
            yield running.pop(handle), handle
