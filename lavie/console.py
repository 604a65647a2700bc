"""The one place that makes consoles of rich, so that every text is printed as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress

TIME = "%Y-%m-%d %H:%M:%S"
"""The time of day with which a line of a log begins."""
LINES = 20
"""Lines that a piece of work prints of its progress where there is no terminal, at most."""


def make_console(**options: Any) -> Console:
    """Return a console that takes nothing in a text for markup, emoji (`:dog:`) or a number to colour.

    Names of samples and messages hold brackets and colons; styles are given beside the texts.

    Args:
        options: of rich's Console.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function of the number of things done and of all, which moves a bar; off a terminal it prints lines.

    Args:
        console: where the bar stands until the block ends.
        what: what is done, as "packing".
    """
    printed = 0
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def move(done: int, total: int | None) -> None:
            """Show that so many things are done."""
            nonlocal printed
            bar.update(task, completed=done, total=total)
            part = LINES * done // total if total else 0
            if not console.is_terminal and total and part > printed:
                printed = part
                console.print(f"{what}: {done:,} of {total:,}")

        yield move
