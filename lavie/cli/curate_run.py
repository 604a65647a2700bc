"""The commands `lavie curate run`, `report` and `demo`: everything, what is told of it, and films to try it on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import make_console, progress_bar
from ..errors import ConfigError
from .curate_common import (
    Address,
    Changes,
    ConfigFile,
    EngineName,
    Out,
    Workers,
    bring_up_to_date,
    engine_changes,
    find_films,
)
from .curate_select import print_funnel
from .curate_shards import print_shards
from .runs import Overwrite
from .tables import print_counts

if TYPE_CHECKING:
    from ..config.curate import CurateConfig


def run_command(
    src: Annotated[Path, typer.Argument(help="Folder with films, and below it.")],
    out: Out,
    changes: Changes = None,
    config: ConfigFile = None,
    shards: Annotated[Path | None, typer.Option(help="Folder for the shards. Default: none are written.")] = None,
    overwrite: Overwrite = False,
    engine: EngineName = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Do all that the settings ask for, from films to shards and the report. Run again to go on, or with more films.

    Without settings: scan, cut, motion, hash, dedup and the rules over these. Text, CLIP scores, other scorers and
    captions are made where a YAML or key=value asks for them, as caption.captioner=sidecar.
    """
    from ..config.curate import keep, load_curate
    from ..curation.engine.choice import open_engine
    from ..curation.select.columns import needed
    from ..curation.select.select import FOLDER, SELECTION
    from ..curation.shards.write import check_dest
    from ..curation.wanted import wanted_stages

    # Whatever is wrong with the settings is found before the first film is read.
    found = load_curate(out, config, changes or (), engine_changes(engine, workers, address))
    wanted = wanted_stages(found)
    needed(rule.column for rule in found.select.rules or ())
    if shards is not None:
        check_dest(out, src, shards)
        if "caption" not in wanted and not (out / "table/caption").is_dir():
            raise ConfigError(
                "--shards holds clips with captions: set caption.captioner too, as caption.captioner=sidecar"
            )
    with open_engine(found.engine) as opened:
        if opened is None:
            return
        find_films(src, out)
        keep(out, found)
        bring_up_to_date(out, found, wanted, opened)
        _report(out, found)
        if shards is not None:
            print_shards(out, out / FOLDER / SELECTION, shards, found.shards, opened, overwrite)


def report_command(out: Out, changes: Changes = None, config: ConfigFile = None) -> None:
    """Choose clips by the rules, and show what came of the curation: funnel, figures, clips near each threshold."""
    from ..config.curate import keep, load_curate
    from ..curation.films import read_films

    read_films(out)  # what is no curation is named as such
    found = load_curate(out, config, changes or ())
    _report(out, found)
    keep(out, found)


def demo_command(
    out: Annotated[Path, typer.Argument(help="Folder for the films; it must be empty.")],
    seed: Annotated[int, typer.Option(help="Another seed gives other films.")] = 0,
) -> None:
    """Render films to try a curation on: with cuts, dissolves, bars, a logo, duplicates, and dull and broken ones."""
    from ..curation.demo import CAPTIONS, render_films

    console = make_console()
    with progress_bar(console, "films") as progress:
        films = render_films(out, seed, progress)
    rows = [(f"frames of {film.film}, {len(film.starts)} shots", film.frames) for film in films]
    print_counts(console, rows, title=str(out))
    console.print(f"captions: {out / CAPTIONS}", soft_wrap=True)


def _report(out: Path, config: "CurateConfig") -> None:
    """Make the report, and print the funnel and where the page lies."""
    from ..curation.report.report import make_report

    report = make_report(out, config.select)
    console = make_console()
    print_funnel(console, report.funnel)
    console.print(str(report.page), soft_wrap=True)
