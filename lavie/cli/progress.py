"""The progress of an evaluation: a line now and then."""

from collections.abc import Callable

import typer


def tell(what: str) -> Callable[[int, int], None]:
    """Return a function of the clips done and of all, which prints a line at every tenth, on rank 0."""
    from ..distributed import is_main

    printed = 0

    def moved(done: int, total: int) -> None:
        """Print a line at every tenth of the work."""
        nonlocal printed
        part = 10 * done // total
        if is_main() and part > printed:
            printed = part
            typer.echo(f"{what}: {done:,} of {total:,}", err=True)

    return moved
