"""What the commands `lavie curate ...` share: where the work is done, and what is printed of a stage."""

from collections.abc import Iterable
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


def do_stages(out: Path, config: "CurateConfig", stages: Iterable[str]) -> bool:
    """Keep the settings of a command, and have stages done by the engine that they name, as `bring_up_to_date` does it.

    A command calls this when nothing of the settings can be refused any more: a slip of the pen must not be what the
    next one goes by.

    Returns:
        Whether this process is the one that prints: of several ranks the first is.

    Raises:
        ConfigError: there is no curation in `out`.
        DataError: units failed.
    """
    from ..config.curate import keep
    from ..curation.engine.choice import open_engine
    from ..curation.films import read_films

    read_films(out)
    with open_engine(config.engine) as engine:
        if engine is not None:
            keep(out, config)
            bring_up_to_date(out, config, stages, engine)
        return engine is not None


def bring_up_to_date(out: Path, config: "CurateConfig", stages: Iterable[str], engine: "Engine") -> None:
    """Have stages done, in their order, and print what came of each.

    Args:
        out: the folder of the curation.
        config: its settings.
        stages: their names.
        engine: where.

    Raises:
        DataError: units failed; the message names them.
    """
    from ..config.curate import stage_config
    from ..curation.run import run_stage
    from ..curation.stage import command_of

    console = make_console()
    failed = 0
    for name in stages:
        with progress_bar(console, name) as progress:
            report = run_stage(out, name, stage_config(config, name), engine, progress=progress)
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
    if listed.gone:
        rows += [("gone since; what was made of them stays until their unit is done again", len(listed.gone))]
    rows += [(f"passed over: {what}", count) for what, count in sorted(listed.passed.items())]
    console = make_console()
    print_counts(console, rows, title=str(out))
    lines = [f"{item.name}: {item.reason}. {item.detail}" for item in listed.rejected]
    print_first(console, lines, "found below SRC")
