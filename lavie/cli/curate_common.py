"""What the commands `lavie curate ...` share: where the work is done, and what is printed of a stage."""

from contextlib import closing
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import make_console, progress_bar
from ..errors import DataError
from .tables import SHOWN, print_counts, print_first

if TYPE_CHECKING:
    from ..config.curate import CurateConfig
    from ..config.curate_engine import EngineConfig
    from ..curation.engine.base import Engine

Out = Annotated[Path, typer.Argument(help="Folder of the curation.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Any setting, as engine.workers=2.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML with the settings. Default: those last used in OUT, OUT/curate.yaml."),
]
EngineName = Annotated[
    Literal["local", "ray", "mpi"] | None, typer.Option("--engine", help="Where the work is done. Default: local.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes side by side. Default: one for each core.")]
Address = Annotated[
    str | None, typer.Option(help="With --engine ray: a running cluster, as host:port or auto. Default: a new one.")
]


def engine_changes(engine: str | None, workers: int | None, address: str | None) -> dict[str, Any]:
    """Return the section `engine` of the options that were given; a local engine stands for none."""
    return {"engine": {"engine": engine, "workers": workers, "address": address}}


def do_stages(out: Path, stages: dict[str, Any], engine_config: "EngineConfig") -> bool:
    """Have stages done by an engine that is opened for them, as `bring_up_to_date` does it.

    Returns:
        Whether this process is the one that prints: of several ranks the first is.
    """
    from ..curation.engine.choice import open_engine

    with open_engine(engine_config) as engine:
        if engine is not None:
            bring_up_to_date(out, stages, engine)
        return engine is not None


def bring_up_to_date(out: Path, stages: dict[str, Any], engine: "Engine") -> None:
    """Have stages done, in their order, and print what came of each.

    Args:
        out: the folder of the curation.
        stages: the name of each stage with its settings.
        engine: where.

    Raises:
        DataError: units failed; the message names them.
    """
    from ..curation.run import run_stage
    from ..curation.stage import command_of

    console = make_console()
    failed = 0
    for name, config in stages.items():
        with progress_bar(console, name) as progress:
            report = run_stage(out, name, config, engine, progress=progress)
        kept = report.units - report.done - len(report.waiting) - len(report.failed)
        words = [f"{report.done} units done", f"{kept} were up to date"]
        lacking = ", ".join(dict.fromkeys(map(command_of, report.lacking)))
        words += [f"{len(report.waiting)} wait for {lacking}"] if report.waiting else []
        words += [f"{len(report.failed)} failed"] if report.failed else []
        console.print(f"{name}: {', '.join(words)}")
        for unit, error in sorted(report.failed.items())[:SHOWN]:
            console.print(f"  {unit}: {error}", soft_wrap=True, markup=False)
        for reason, count in sorted(report.refused.items()):
            example = shorten(report.examples[reason], 200)
            console.print(f"  refused, {reason}: {count}, as {example}", style="yellow", soft_wrap=True, markup=False)
        if refused := report.refused.total() + report.refused_before:
            listed = out / "rejected" / report.stage
            console.print(f"  {refused} refused in all, listed in {listed}", style="yellow", soft_wrap=True)
        failed += len(report.failed)
    if failed:
        raise DataError(f"{failed} units failed, each with its reason above: the same command tries them again")


def find_films(src: Path, out: Path) -> None:
    """Bring the list of films up to date, and print what changed."""
    from ..curation.films import list_films
    from ..curation.scan.header import film_seconds
    from ..data.prepare.sandbox import Sandbox

    with closing(Sandbox()) as sandbox:
        listed = list_films(src, out, lambda path: film_seconds(path, sandbox))
    rows = [("films", len(listed.list.films)), ("new", listed.new), ("units", len(listed.list.units))]
    rows += [("changed since, to be done again", len(listed.changed))] if listed.changed else []
    rows += (
        [("gone since; what was made of them stays until their unit is done again", len(listed.gone))]
        if listed.gone
        else []
    )
    rows += [(f"passed over: {what}", count) for what, count in sorted(listed.passed.items())]
    console = make_console()
    print_counts(console, rows, title=str(out))
    lines = [f"{item.name}: {item.reason}. {item.detail}" for item in listed.rejected]
    print_first(console, lines, "found below SRC")


def settings(out: Path, config: Path | None, changes: list[str] | None, given: dict[str, Any]) -> "CurateConfig":
    """Return the settings of a command, and keep them in OUT if it is a curation.

    A command whose work may refuse them, as rules over columns that nobody has made, keeps them itself behind it: a
    slip of the pen must not be what the next command goes by.
    """
    from ..config.curate import keep, load_curate

    found = load_curate(out, config, changes or (), given)
    if (out / "films.parquet").is_file():
        keep(out, found)
    return found
