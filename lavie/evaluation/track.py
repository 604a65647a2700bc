"""How the loops of a score show their progress, which the command line decides."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Takes what a loop goes over and a word for what it does, and gives the same elements one by one."""


def untracked(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Return the items as they are, for a loop that shows no progress."""
    return items
