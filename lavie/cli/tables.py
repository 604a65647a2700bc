"""Tables and lists that several commands print."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

SHOWN = 20
"""Number of lines of a list that are printed; a file lists them all."""


def print_counts(console: Console, rows: Iterable[tuple[str, int]], title: str | None = None) -> None:
    """Print a table with the columns "what" and "count", under a title on one line, however narrow the table is."""
    if title is not None:
        console.print(title, style="italic", soft_wrap=True)
    table = Table()
    table.add_column("what")
    table.add_column("count", justify="right")
    for what, count in rows:
        table.add_row(what, str(count))
    console.print(table)


def print_first(console: Console, lines: Sequence[str], rest: str) -> None:
    """Print the first SHOWN lines and, if there are more, how many more.

    Args:
        console: where to print.
        lines: the whole list.
        rest: where the whole list is found, as in "listed in rejected.jsonl".
    """
    for line in lines[:SHOWN]:
        console.print(line)
    if len(lines) > SHOWN:
        console.print(f"... and {len(lines) - SHOWN} more, {rest}")
