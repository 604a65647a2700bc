"""`lavie report`: runs on one page that opens from the disk."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..files import require_free, require_writable
from ..run_folder import REPORT
from .runs import Overwrite, one_run, run_of


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="A run's output_dir, or several to show beside each other.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"The page; default: {REPORT} in the run's folder, or here where there are several runs."),
    ] = None,
    result: Annotated[
        list[Path] | None,
        typer.Option(help="A result of `lavie eval` to show too, or a folder of such; those in the runs are found."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page of a run, or of several beside each other: curves, videos, data, checkpoints, results, config.

    It is one file that loads nothing, and may be written while a run goes on. The end of a run writes it too.
    """
    places = runs or []
    folders = [run_of(run) for run in (places if len(places) > 1 else [one_run(next(iter(places), None), None)])]
    target = out or (Path(REPORT) if len(folders) > 1 else folders[0] / REPORT)
    if target.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out {target}: wanted a .html")
    if out or len(folders) > 1:  # a run's own page is written anew as the run goes on
        require_free(target, overwrite=overwrite)
    from ..pages.report.build import write_report
    from ..pages.report.read import require_runs

    require_runs(folders)
    require_writable(target)
    typer.echo(write_report(folders, target, result or ()))
