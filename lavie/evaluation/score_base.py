"""How many verdicts are right, beside what guessing would give."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..data.prepare.synthetic import COLOURS, DIRECTIONS
from .judge import Verdict

CHANCE = {
    "colour": 1 / len(COLOURS),
    "direction": 1 / len(DIRECTIONS),
    "both": 1 / (len(COLOURS) * len(DIRECTIONS)),
}
"""Of naming one of all colours and directions blindly."""


def score(verdicts: Sequence[Verdict], truths: Sequence[Verdict]) -> dict[str, Any]:
    """Accuracies of verdicts against what was asked for.

    A truth of None was not asked for and does not count (an image has no direction); a verdict of None is wrong.

    Returns: for "colour", "direction" and "both" a dict of right (int), count (int), accuracy (0 .. 1, None without a
        count) and chance.

    Raises:
        ValueError: the lists differ in length.
    """
    result = {}
    for name, chance in CHANCE.items():
        fields = ("colour", "direction") if name == "both" else (name,)
        pairs = [
            ([getattr(verdict, f) for f in fields], [getattr(truth, f) for f in fields])
            for verdict, truth in zip(verdicts, truths, strict=True)
        ]
        asked = [(seen, wanted) for seen, wanted in pairs if None not in wanted]
        right = sum(seen == wanted for seen, wanted in asked)
        accuracy = right / len(asked) if asked else None
        result[name] = {"right": right, "count": len(asked), "accuracy": accuracy, "chance": chance}
    return result


def report(
    prompts: Sequence[str], verdicts: Sequence[Verdict], truths: Sequence[Verdict], console: Console | None = None
) -> None:
    """Print each prompt with what is seen in its clip, then the accuracies beside chance."""
    console = console or Console()
    table = Table("prompt", "colour", "direction", title="What the judge sees")
    for prompt, verdict, truth in zip(prompts, verdicts, truths, strict=True):
        table.add_row(escape(prompt), *(_cell(seen, wanted) for seen, wanted in zip(verdict, truth, strict=True)))
    console.print(table)
    table = Table("", "right", "accuracy", "chance", title="Against what was asked for")
    for name, part in score(verdicts, truths).items():
        if part["count"]:
            table.add_row(
                name, f"{part['right']} / {part['count']}", f"{part['accuracy']:.0%}", f"{part['chance']:.0%}"
            )
    console.print(table)


def _cell(seen: str | None, wanted: str | None) -> str:
    if wanted is None:
        return "-"
    return f"[green]{seen}[/green]" if seen == wanted else f"[red]{seen or 'none'}, wanted {wanted}[/red]"
