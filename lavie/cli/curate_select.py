"""The commands `lavie curate select` and `lavie curate quality`: which clips are kept, and which are the best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..console import make_console
from .curate_common import Changes, ConfigFile, Out
from .tables import print_counts

if TYPE_CHECKING:
    from rich.console import Console

    from ..curation.select.funnel import Amount, Funnel


def select_command(
    out: Out,
    rules: Annotated[
        Path | None,
        typer.Argument(metavar="[RULES.yaml]", help="The rules, as OUT/select/rules.yaml. Default: those last used."),
    ] = None,
    min_side: Annotated[
        int | None, typer.Option(min=1, help="Least short side in pixels, in place of that of the rules.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Choose clips by the columns that are there, and show what each rule leaves. Decodes nothing.

    Without rules of your own: frames >= 16, short_side >= 720, aspect >= 1.2, 16 <= luma <= 235, frozen <= 0.5,
    flow_mean >= 0.0003, no overlay, text_area <= 0.02, aesthetic_mean >= 4, no duplicate, words >= 3,
    clip_score >= 0.2; of these, what has not been measured is left out, and named.
    """
    from ..config.curate import keep, load_curate
    from ..config.curate_select import SelectConfig
    from ..config.load import read_yaml, validate
    from ..curation.films import read_films
    from ..curation.select.select import FOLDER, SELECTION, select

    read_films(out)  # what is no curation is named as such
    given: dict[str, Any] = {}
    cleared = []
    if rules is not None:  # they take the place of those last used, with whatever changed them
        given, cleared = read_yaml(rules, SelectConfig), ["select.rules=null", "select.min_side=null"]
        validate(SelectConfig, given, str(rules))
    given |= {} if min_side is None else {"min_side": min_side}
    found = load_curate(out, config, cleared, {"select": given})
    funnel = select(out, found.select)
    keep(out, found)
    console = make_console()
    print_funnel(console, funnel)
    console.print(str(out / FOLDER / SELECTION), soft_wrap=True)


def quality_command(
    out: Out,
    changes: Changes = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of clips. Default: 2000.")] = None,
    config: ConfigFile = None,
) -> None:
    """Choose the best of the selected clips, for the end of training: those that every score ranks high.

    At or above the 80th percentile in aesthetic_min and clip_score, at most 2 of a film, categories filled evenly.
    """
    from ..config.curate import keep, load_curate
    from ..curation.films import read_films
    from ..curation.select.quality import QUALITY, choose_quality
    from ..curation.select.select import FOLDER

    read_films(out)  # what is no curation is named as such
    every = load_curate(out, config, changes or (), {"quality": {"count": count}})
    found = every.quality
    quality = choose_quality(out, found)
    keep(out, every)
    rows = [("selected", quality.selected)]
    rows += [(f"of these without a value in {name}", number) for name, number in quality.without.items() if number]
    limits = ", ".join(f"{name} >= {limit:.4g}" for name, limit in quality.thresholds.items())
    rows += [(limits, quality.candidates)]
    rows += [(f"chosen of {category or 'no category'}", number) for category, number in quality.chosen.items()]
    console = make_console()
    print_counts(console, rows, title=str(out / FOLDER / QUALITY))
    chosen = sum(quality.chosen.values())
    if chosen < found.count:
        console.print(
            f"{chosen} of {found.count} clips: no more are that good, with {found.per_film} of a film at most; lower "
            "quality.percentile, or raise quality.per_film",
            style="yellow",
        )


def print_funnel(console: "Console", funnel: "Funnel") -> None:
    """Print what each rule leaves, and what to know of it."""
    from ..curation.stage import command_of

    table = Table()
    for name in ("rule", "clips left", "hours left", "of all", "alone drops", "without a value"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    table.add_row("all clips", *_amounts(funnel.all, funnel), "", "")
    for step in funnel.steps:
        kept = "" if step.drops_no_value or not step.no_value else " (kept)"
        missing = f"{step.no_value}{kept}" if step.no_value and not step.asks_for_none else ""
        table.add_row(step.rule, *_amounts(step.left, funnel), str(step.alone.clips), missing)
    for name in funnel.not_measured:
        table.add_row(name, "", "", "", "", "not measured")
    console.print(table)
    if funnel.not_measured:
        console.print(f"not measured, so not applied: {', '.join(funnel.not_measured)}", style="yellow")
    if funnel.uncut:
        console.print(f"{len(funnel.uncut)} units are not cut, as {funnel.uncut[0]}", style="yellow")
    for stage, kinds in funnel.faults.items():
        for kind, units in kinds.items():
            console.print(f"{stage}: {kind} for {len(units)} units, as {units[0]}", style="yellow")
    for step in funnel.steps:
        if step.newly_no_value:
            text = f"{step.newly_no_value} clips pass the rules before, and have no value in {step.column}"
            console.print(f"{text} (of `{command_of(step.stage)}`)", style="yellow")


def _amounts(amount: "Amount", funnel: "Funnel") -> tuple[str, str, str]:
    """Return clips, hours and the share of all clips, as they are printed."""
    share = amount.clips / funnel.all.clips if funnel.all.clips else 0.0
    hours = f"{amount.hours:.2f}" if amount.hours >= 1 else f"{amount.hours:.3g}"
    return str(amount.clips), hours, f"{100 * share:.1f} %"
