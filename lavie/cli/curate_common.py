"""What the commands `lavie curate ...` share: where the work is done, and what is printed of a stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..console import make_console, progress_bar
from ..errors import DataError
from .tables import SHOWN

if TYPE_CHECKING:
    from ..config.curate import CurateConfig
    from ..config.curate_engine import EngineConfig

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


def bring_up_to_date(out: Path, stages: dict[str, Any], engine_config: "EngineConfig") -> bool:
    """Have stages done, in their order, and print what came of each; return whether this process is to print more.

    With mpi, the first rank alone prints.

    Args:
        out: the folder of the curation.
        stages: the name of each stage with its settings.
        engine_config: where.

    Raises:
        DataError: units failed; the message names them.
    """
    from ..curation.engine.choice import open_engine
    from ..curation.run import run_stage
    from ..curation.stage import command_of

    console = make_console()
    failed = 0
    with open_engine(engine_config) as engine:
        if engine is None:
            return False
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
                console.print(f"  {unit}: {error}")
            failed += len(report.failed)
    if failed:
        raise DataError(f"{failed} units failed, each with its reason above: the same command tries them again")
    return True


def settings(out: Path, config: Path | None, changes: list[str] | None, given: dict[str, Any]) -> "CurateConfig":
    """Return the settings of a command, and keep them in OUT if it is a curation."""
    from ..config.curate import keep, load_curate

    found = load_curate(out, config, changes or (), given)
    if (out / "films.parquet").is_file():
        keep(out, found)
    return found
